package cli

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"github.com/goccy/go-yaml"
)

// ReadSettings reads a YAML file into v. An unknown key is an error that names
// the key and its line. An empty file sets nothing.
func ReadSettings(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	defer f.Close()
	err = yaml.NewDecoder(f, yaml.Strict()).Decode(v)
	var at yaml.Error
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return nil
	case errors.As(err, &at) && at.GetToken() != nil:
		return fmt.Errorf("%s line %d: %s", path, at.GetToken().Position.Line, at.GetMessage())
	}
	return fmt.Errorf("%s: %w", path, err)
}

// First returns the first of several settings that was given, else def.
func First[T any](def T, given ...*T) T {
	for _, v := range given {
		if v != nil {
			return *v
		}
	}
	return def
}

// CheckAddress tells whether the setting of a name is host:port.
func CheckAddress(name, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%s %q is not host:port, such as 127.0.0.1:8080", name, address)
	}
	return nil
}
