// Command schemas makes JSON schemas for kubeconform of the OpenAPI document of
// Kubernetes, for use without a network: one file for each kind, in which a
// field that the kind has not is an error and null is a missing field.
//
//	schemas -out DIR swagger.json
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	out := flag.String("out", "schemas", "directory to write")
	flag.Parse()
	if err := write(*out, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

func write(out, swagger string) error {
	text, err := os.ReadFile(swagger)
	if err != nil {
		return err
	}
	var doc struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	definitions := map[string]any{}
	for name, d := range doc.Definitions {
		definitions[name] = strict(d)
	}
	if text, err = json.Marshal(map[string]any{"definitions": definitions}); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "definitions.json"), text, 0o644); err != nil {
		return err
	}
	for name, d := range doc.Definitions {
		kinds, _ := d["x-kubernetes-group-version-kind"].([]any)
		for _, k := range kinds {
			gvk, _ := k.(map[string]any)
			group, _, _ := strings.Cut(fmt.Sprint(gvk["group"]), ".")
			file := strings.ToLower(fmt.Sprintf("%s-%s-%s.json", gvk["kind"], group, gvk["version"]))
			file = strings.Replace(file, "--", "-", 1) // the core group has no name
			if text, err = json.Marshal(map[string]any{"$ref": "definitions.json#/definitions/" + name}); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(out, file), text, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// strict returns a schema that refuses fields it does not name, and takes null
// for a field that is not required.
func strict(v any) any {
	s, ok := v.(map[string]any)
	if !ok {
		return v
	}
	if s["format"] == "int-or-string" {
		return map[string]any{"oneOf": []any{map[string]any{"type": "string"}, map[string]any{"type": "integer"}}}
	}
	out := map[string]any{}
	for key, value := range s {
		switch key {
		case "properties":
			required := map[string]bool{}
			list, _ := s["required"].([]any)
			for _, r := range list {
				required[fmt.Sprint(r)] = true
			}
			fields := map[string]any{}
			for name, field := range value.(map[string]any) {
				if fields[name] = strict(field); !required[name] {
					fields[name] = map[string]any{"anyOf": []any{fields[name], map[string]any{"type": "null"}}}
				}
			}
			out["properties"], out["additionalProperties"] = fields, false
		case "items", "additionalProperties":
			out[key] = strict(value)
		case "type", "required", "enum", "$ref":
			out[key] = value
		}
	}
	return out
}
