package client_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/client"
	"github.com/sapflow/sapflow/shared/client/clienttest"
	"github.com/sapflow/sapflow/shared/frame"
	"github.com/sapflow/sapflow/shared/point"
)

// TestImport imports columns that fill messages in different ways: with more
// points than one may have, with names, and with texts.
func TestImport(t *testing.T) {
	i := clienttest.Start(t)
	column := func(points int, text func() string) *frame.Column {
		c := &frame.Column{}
		for k := range points {
			p := point.Point{Time: uint64(k + 1), DataType: point.Float, Data: point.FloatData(1)}
			if text != nil {
				p.DataType, p.Data = point.String, []byte(text())
			}
			c.Append(&p)
		}
		return c
	}
	names := map[string]*frame.Column{}
	for k := range 4000 {
		names[fmt.Sprintf("type-%d", k)] = column(1, nil)
	}
	for what, columns := range map[string]map[string]*frame.Column{
		"points": {"a": column(200_000, nil), "b": column(0, nil), "c": column(1, nil)},
		"names":  names,
		"texts": {"a": column(1500, func() string {
			b := make([]byte, 500)
			rand.Read(b)
			return hex.EncodeToString(b)
		})},
		"nothing": {},
	} {
		all, want := map[point.Series]*frame.Column{}, map[string]int{}
		for range 3 {
			node := add(t, i.Client, i.Root, "sensor", what)
			for pointType, c := range columns {
				all[point.Series{Node: node, Type: pointType, Key: "0"}] = c
				want[node] += c.Len()
			}
		}
		if err := i.Client.Import(t.Context(), i.Root, all); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		for node, n := range want {
			got := -1 // the description
			err := i.Client.Columns(t.Context(), node, api.HistoryRequest{}, func(columns []client.Column, _ []api.Gap) error {
				for _, c := range columns {
					got += c.Len()
				}
				return nil
			})
			if err != nil || got != n {
				t.Errorf("%s: history has %d points, want %d, %v", what, got, n, err)
			}
		}
	}

	one := map[point.Series]*frame.Column{{Node: "nobody", Type: "a", Key: "0"}: column(1, nil)}
	if err := i.Client.Import(t.Context(), i.Root, one); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("unknown node: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := i.Client.Import(ctx, i.Root, one); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: got %v", err)
	}
}
