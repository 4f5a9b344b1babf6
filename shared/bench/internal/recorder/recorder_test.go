package recorder_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sapflow/sapflow/shared/bench/internal/recorder"
)

// script is what a shell does on the mount: names of all kinds, writes in the
// middle and at the end, holes, syncs.
const script = `set -e
mkdir -p a/b c
printf hello > a/one
printf world >> a/one
sync a/one
printf x | dd of=a/one bs=1 seek=9000 conv=notrunc status=none
printf abc | dd of=a/one bs=1 seek=2 conv=notrunc status=none
printf two > a/b/two
ln a/b/two c/link
mv a/b/two c/moved
printf old > c/target
printf new > c/tmp
mv c/tmp c/target
sync c
truncate -s 3 c/moved
truncate -s 5000 c/target
head -c 300000 /dev/zero | tr '\0' y > c/big
rm c/link
mkdir gone
rmdir gone
mv a d
printf again > a
rm a
printf more > a
: > d/one
printf rest > d/one
`

// record runs a script on a mount and returns what was recorded and the
// directory as it is.
func record(t *testing.T, script string) (recorder.Recording, string) {
	t.Helper()
	backing, mount := t.TempDir(), t.TempDir()
	r, err := recorder.Open(backing, mount, &recorder.Clock{})
	if err != nil {
		t.Fatal(err)
	}
	// Not by cmd.Dir: between fork and exec a thread that would answer may wait.
	cmd := exec.Command("sh", "-c", "cd \"$0\"\n"+script, mount)
	out, err := cmd.CombinedOutput()
	if closeErr := r.Close(); closeErr != nil {
		t.Error(closeErr)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return r.Ops(), backing
}

// listing returns names and contents below dir.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if e.IsDir() {
			fmt.Fprintf(&b, "%s/\n", name)
			return nil
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %q\n", name, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func build(t *testing.T, r recorder.Recording, m recorder.Model, seed uint64) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "image")
	if err := r.Build(dir, m, rand.New(rand.NewPCG(seed, 0))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestKept proves that nothing is missing in a recording: all of it makes the
// same directory again.
func TestKept(t *testing.T) {
	ops, dir := record(t, script)
	if got, want := listing(t, build(t, ops, recorder.Kept, 1)), listing(t, dir); got != want {
		t.Errorf("rebuilt:\n%s\nis:\n%s", got, want)
	}
}

// TestModels cuts after each operation: what was synced is always there, an
// image is the same for the same seed, and each model loses something.
func TestModels(t *testing.T) {
	ops, _ := record(t, `set -e
printf durable > file
sync file
printf lost >> file
head -c 9000 /dev/zero | tr '\0' z >> file
printf new > tmp
mv tmp other
`)
	for _, m := range recorder.Models {
		seen := map[string]bool{}
		for seed := range uint64(60) {
			dir := build(t, ops, m, seed)
			data, err := os.ReadFile(filepath.Join(dir, "file"))
			if err != nil || !bytes.HasPrefix(data, []byte("durable")) {
				t.Fatalf("%s, seed %d: file holds %.40q, %v", m, seed, data, err)
			}
			if _, err := os.Stat(filepath.Join(dir, "tmp")); err == nil {
				if _, err := os.Stat(filepath.Join(dir, "other")); err == nil {
					t.Fatalf("%s, seed %d: a renamed file has both names", m, seed)
				}
			}
			is := listing(t, dir)
			if again := listing(t, build(t, ops, m, seed)); again != is {
				t.Fatalf("%s, seed %d: another image the second time", m, seed)
			}
			seen[is] = true
		}
		if len(seen) < 3 {
			t.Errorf("%s: %d different images of 60 seeds", m, len(seen))
		}
	}
}

// TestSyncedNames tells which names a sync covers.
func TestSyncedNames(t *testing.T) {
	for _, c := range []struct{ name, script, there string }{
		{"directory", "printf x > tmp; mv tmp f; sync .", "f"},
		{"file", "printf x > f; sync f; printf y > g", "f"},
		{"below a new directory", "mkdir d; printf x > d/f; sync d/f", "d/f"},
	} {
		ops, _ := record(t, c.script)
		for _, m := range recorder.Models {
			for seed := range uint64(20) {
				if _, err := os.Stat(filepath.Join(build(t, ops, m, seed), c.there)); err != nil {
					t.Fatalf("%s, %s, seed %d: %v", c.name, m, seed, err)
				}
			}
		}
	}
}

// TestWear counts pages as often as a sync writes them, and those that nobody
// has synced once.
func TestWear(t *testing.T) {
	ops, _ := record(t, `set -e
head -c 9000 /dev/zero > file
sync file
printf x | dd of=file conv=notrunc status=none
printf y | dd of=file bs=1 seek=9 conv=notrunc status=none
sync file
sync file
printf z > other
`)
	got := ops.Wear(0)
	if got.Pages != 3+1+1 || got.Syncs != 3 || got.Bytes() != int64(got.Pages+got.Journal)*4096 {
		t.Errorf("got %+v", got)
	}
	// Three commits, of two names together and of pages in both files.
	if want := 3*3 + 2*2 + 2; got.Journal != want {
		t.Errorf("journal has %d blocks, want %d", got.Journal, want)
	}
	if none := ops.Wear(ops[len(ops)-1].At); none != (recorder.Blocks{}) {
		t.Errorf("after the end: %+v", none)
	}
}

func TestBelow(t *testing.T) {
	r := recorder.Recording{
		{At: 1, Kind: recorder.Mkdir, File: 1, Name: "a"},
		{At: 2, Kind: recorder.Mkdir, File: 2, Dir: 1, Name: "kept"},
		{At: 3, Kind: recorder.Create, File: 3, Dir: 2, Name: "x"},
		{At: 4, Kind: recorder.Write, File: 3, Data: []byte("before")},
		{At: 5, Kind: recorder.Write, File: 3, Data: []byte("after")},
		{At: 6, Kind: recorder.Create, File: 4, Dir: 1, Name: "y"},
		{At: 7, Kind: recorder.Write, File: 4, Data: []byte("elsewhere")},
		{At: 8, Kind: recorder.Rename, File: 4, Dir: 1, Name: "y", NewDir: 2, NewName: "z"},
		{At: 9, Kind: recorder.Write, File: 4, Data: []byte("here")},
		{At: 10, Kind: recorder.Unlink, Dir: 2, Name: "x"},
		{At: 11, Kind: recorder.Unlink, Dir: 1, Name: "x"},
	}
	var got []uint64
	for _, op := range r.Below("kept") {
		got = append(got, op.At)
	}
	if want := []uint64{2, 3, 4, 5, 8, 9, 10}; !slices.Equal(got, want) {
		t.Errorf("operations %v are below, want %v", got, want)
	}
	if got := r.Below("kept").Written(4); got != int64(len("after")+len("here")) {
		t.Errorf("%d bytes were written", got)
	}
}
