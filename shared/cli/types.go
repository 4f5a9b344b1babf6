package cli

import (
	"fmt"
	"strings"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
)

// Types is the command `node types`.
type Types struct {
	Type string `arg:"" optional:"" help:"Only this type."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// Help shows examples.
func (Types) Help() string {
	return "Prints the types of nodes that something is known of, with their settings. Nodes of other types take any point.\n\n" +
		"Examples:\n\n    sapflow-hub node types\n    sapflow-hub node types modbusIo\n    sapflow-hub node types --json"
}

// Run prints types.
func (t Types) Run(out *Out) error {
	list := schema.Types()
	if t.Type != "" {
		one := schema.Of(t.Type)
		if one == nil {
			return unknownType(t.Type)
		}
		list = []*schema.Type{one}
	}
	if t.JSON {
		return out.JSON(list)
	}
	for i, typ := range list {
		if i > 0 {
			_ = out.Println("")
		}
		if err := out.Println(fmt.Sprintf("%s: %s; below %s; tells %s\n", typ.Name, typ.Help, typ.Below, strings.Join(typ.Points, ", "))); err != nil {
			return err
		}
		rows := [][]string{{"SETTING", "VALUES", "UNIT", "DEFAULT", "WHAT"}}
		for _, s := range typ.Settings {
			rows = append(rows, []string{s.Name, allowed(&s), s.Unit, standard(&s), s.Help})
		}
		if err := out.Table(rows); err != nil {
			return err
		}
	}
	return nil
}

func unknownType(name string) error {
	var names []string
	for _, t := range schema.Types() {
		names = append(names, t.Name)
	}
	return api.Errorf(api.CodeNotFound, "do you mean "+schema.Nearest(name, names)+"?", "nothing is known of nodes of type %s", name)
}

func allowed(s *schema.Setting) string {
	switch {
	case s.Words != nil:
		return strings.Join(s.Words, "|")
	case s.Range != nil:
		return fmt.Sprintf("%.12g..%.12g", s.Range.Least, s.Range.Most)
	}
	return string(s.Kind)
}

func standard(s *schema.Setting) string {
	switch v := s.Default.(type) {
	case nil:
		return ""
	case float64:
		return fmt.Sprintf("%.12g", v)
	default:
		return fmt.Sprint(v)
	}
}

// fitSetting returns the data type of a setting of a node, and an error if its
// type does not know or not allow it. dataType is what the caller asks for, ""
// for none. Of a node whose type nothing is known of all is allowed.
func fitSetting(n *api.Node, s point.Series, value, dataType string) (string, error) {
	typ := schema.Of(n.NodeType)
	if typ == nil {
		return dataType, nil
	}
	setting := typ.Setting(s.Type)
	given := dataType
	if setting != nil && given == "" {
		given = dataTypeOf(setting, value)
	}
	p := point.Point{Series: s}
	p.DataType, _ = point.ParseDataType(given)
	if given == "" {
		p.DataType = point.String
	}
	var err error
	p.Data, err = point.ParseValue(value, p.DataType, 0)
	if setting == nil || err == nil {
		if r := typ.Check(&p); r != nil {
			return "", api.Errorf(api.CodeInvalid, "see `node types "+typ.Name+"`, or give --force", "%s: %s", typeKey(s.Type, s.Key), r.Reason)
		}
	}
	return given, nil // what does not parse is refused by who writes it
}

// dataTypeOf returns how a setting is written.
func dataTypeOf(s *schema.Setting, value string) string {
	switch s.Kind {
	case schema.Text:
		return point.String.String()
	case schema.Bool:
		if _, err := point.ParseValue(value, point.Uint, 1); err == nil {
			return "bool"
		}
	}
	if _, err := point.ParseValue(value, point.Float, 0); err == nil {
		return point.Float.String()
	}
	return point.String.String() // is refused as no number
}
