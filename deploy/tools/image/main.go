// Command image writes an OCI image of the hub as a tarball, without a daemon:
// an index of one image for each machine, the same bytes for the same input.
//
//	image -version 1.2.3 -revision COMMIT -epoch SECONDS -out hub.oci.tar amd64=FILE arm64=FILE
//
// An image holds the static binary (which has time zones in it), the
// authorities that Mozilla trusts, a user that is not root and its data
// directory. It prints the digest of the index.
package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is nonroot, as in distroless images.
const user = 65532

func main() {
	version := flag.String("version", "dev", "version of the program")
	revision := flag.String("revision", "", "commit it is built from")
	epoch := flag.Int64("epoch", 0, "time of all files, Unix seconds")
	out := flag.String("out", "hub.oci.tar", "file to write")
	flag.Parse()
	digest, err := write(*out, *version, *revision, time.Unix(*epoch, 0).UTC(), flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	fmt.Println(digest)
}

func write(out, version, revision string, at time.Time, binaries []string) (v1.Hash, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arg := range binaries {
		arch, file, ok := strings.Cut(arg, "=")
		if !ok {
			return v1.Hash{}, fmt.Errorf("%q is not ARCH=FILE", arg)
		}
		binary, err := os.ReadFile(file)
		if err != nil {
			return v1.Hash{}, err
		}
		img, err := image(binary, arch, version, revision, at)
		if err != nil {
			return v1.Hash{}, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	dir, err := os.MkdirTemp("", "image-*")
	if err != nil {
		return v1.Hash{}, err
	}
	defer os.RemoveAll(dir)
	top, err := layout.Write(dir, empty.Index)
	if err != nil {
		return v1.Hash{}, err
	}
	name := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": version})
	if err := top.AppendIndex(index, name); err != nil {
		return v1.Hash{}, err
	}
	digest, err := index.Digest()
	if err != nil {
		return v1.Hash{}, err
	}
	written, err := top.ImageIndex()
	if err == nil {
		err = validate.Index(written)
	}
	if err != nil {
		return v1.Hash{}, fmt.Errorf("validate what was written: %w", err)
	}
	return digest, pack(out, dir, at)
}

// image returns the image for one machine.
func image(binary []byte, arch, version, revision string, at time.Time) (v1.Image, error) {
	base, err := layer(at,
		entry{name: "etc/", mode: 0o755, dir: true},
		entry{name: "etc/passwd", mode: 0o644, data: []byte(fmt.Sprintf("root:x:0:0:root:/:/sbin/nologin\nsapflow:x:%d:%d:sapflow:/data:/sbin/nologin\n", user, user))},
		entry{name: "etc/group", mode: 0o644, data: []byte(fmt.Sprintf("root:x:0:\nsapflow:x:%d:\n", user))},
		entry{name: "etc/ssl/", mode: 0o755, dir: true},
		entry{name: "etc/ssl/certs/", mode: 0o755, dir: true},
		entry{name: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, data: authorities()},
		entry{name: "data/", mode: 0o700, dir: true, user: user},
	)
	if err != nil {
		return nil, err
	}
	program, err := layer(at,
		entry{name: "usr/", mode: 0o755, dir: true},
		entry{name: "usr/bin/", mode: 0o755, dir: true},
		entry{name: "usr/bin/sapflow-hub", mode: 0o755, data: binary},
	)
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), base, program)
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(img, config(img, arch, version, revision, at))
}

func config(img v1.Image, arch, version, revision string, at time.Time) *v1.ConfigFile {
	c, err := img.ConfigFile()
	if err != nil {
		panic(err) // of an image made here
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Created = "linux", arch, v1.Time{Time: at}
	c.History = nil
	c.Config = v1.Config{
		User: fmt.Sprintf("%d:%d", user, user), WorkingDir: "/data",
		Env:          []string{"PATH=/usr/bin", "SAPFLOW_DATA=/data"},
		Entrypoint:   []string{"sapflow-hub"},
		Cmd:          []string{"serve"},
		Volumes:      map[string]struct{}{"/data": {}},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "7422/tcp": {}, "4223/tcp": {}, "9465/tcp": {}},
		Labels: map[string]string{
			"org.opencontainers.image.title":    "sapflow-hub",
			"org.opencontainers.image.version":  version,
			"org.opencontainers.image.revision": revision,
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.source":   "https://github.com/sapflow/sapflow",
		},
	}
	return c
}

// entry is a file of a layer.
type entry struct {
	name string
	mode int64
	dir  bool
	user int
	data []byte
}

func layer(at time.Time, entries ...entry) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Uid: e.user, Gid: e.user, Size: int64(len(e.data)), ModTime: at, Typeflag: tar.TypeReg}
		if e.dir {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
}

// authorities returns the roots that Mozilla trusts, in PEM.
func authorities() []byte {
	var buf bytes.Buffer
	for root := range bundle.Roots() {
		_ = pem.Encode(&buf, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a buffer takes all
	}
	return buf.Bytes()
}

// pack writes a directory as a tarball, by name.
func pack(out, dir string, at time.Time) (err error) {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return w.WriteHeader(&tar.Header{Name: name + "/", Mode: 0o755, ModTime: at, Typeflag: tar.TypeDir})
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: at, Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	return errors.Join(err, w.Close())
}
