package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// TestImage writes an index twice, the same bytes, and reads it as a runtime
// does.
func TestImage(t *testing.T) {
	dir := t.TempDir()
	var args []string
	for _, arch := range []string{"amd64", "arm64"} {
		file := filepath.Join(dir, arch)
		if err := os.WriteFile(file, []byte("program for "+arch), 0o700); err != nil {
			t.Fatal(err)
		}
		args = append(args, arch+"="+file)
	}
	at := time.Unix(1_700_000_000, 0).UTC()
	var written [2][]byte
	var digest v1.Hash
	for i := range written {
		out := filepath.Join(dir, "out.tar")
		var err error
		if digest, err = write(out, "1.2.3", "abc", at, args); err != nil {
			t.Fatal(err)
		}
		if written[i], err = os.ReadFile(out); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(written[0], written[1]) {
		t.Error("the same input gave two images")
	}
	index := read(t, written[0], digest)
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 2 {
		t.Fatalf("got %+v, %v", manifest, err)
	}
	for _, m := range manifest.Manifests {
		img, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		c, err := img.ConfigFile()
		if err != nil || c.Architecture != m.Platform.Architecture || c.Config.User != "65532:65532" || c.Config.Labels["org.opencontainers.image.version"] != "1.2.3" {
			t.Errorf("config of %v: %+v, %v", m.Platform, c, err)
		}
		files := map[string]string{}
		owners := map[string]int{}
		fs := tar.NewReader(mutate.Extract(img))
		for {
			h, err := fs.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(fs)
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimSuffix(h.Name, "/")
			files[name], owners[name] = string(data), h.Uid
		}
		if files["usr/bin/sapflow-hub"] != "program for "+c.Architecture || owners["data"] != user || owners["usr/bin/sapflow-hub"] != 0 {
			t.Errorf("%s: wrong program or owners %v", c.Architecture, owners)
		}
		if n := strings.Count(files["etc/ssl/certs/ca-certificates.crt"], "BEGIN CERTIFICATE"); n < 50 {
			t.Errorf("%d authorities", n)
		}
	}
}

// read unpacks a tarball and returns its index of a digest.
func read(t *testing.T, packed []byte, digest v1.Hash) v1.ImageIndex {
	t.Helper()
	root := t.TempDir()
	for r := tar.NewReader(bytes.NewReader(packed)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(root, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o700)
		} else {
			var data []byte
			if data, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, data, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	top, err := layout.ImageIndexFromPath(root)
	if err != nil {
		t.Fatal(err)
	}
	index, err := top.ImageIndex(digest)
	if err != nil {
		t.Fatal(err)
	}
	return index
}
