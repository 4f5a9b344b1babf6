package audit_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sapflow/sapflow/hub/internal/audit"
	"github.com/sapflow/sapflow/hub/internal/cred"
	"github.com/sapflow/sapflow/hub/internal/natsd"
	"github.com/sapflow/sapflow/shared/api"
	"github.com/sapflow/sapflow/shared/subject"
)

func open(t *testing.T, now func() time.Time) (*audit.Log, jetstream.JetStream) {
	t.Helper()
	dir := t.TempDir()
	keys, err := cred.Open(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	srv, err := natsd.Start(t.Context(), natsd.Config{Dir: dir, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	nc, err := srv.Connect(cred.CORE, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(t.Context(), js, now, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	return log, js
}

func read(t *testing.T, log *audit.Log, req api.AuditRequest) []audit.Entry {
	t.Helper()
	list, err := log.List(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestList(t *testing.T) {
	log, js := open(t, nil)
	ctx := audit.By(t.Context(), "admin", "192.0.2.1:5")
	for i := range 5 {
		log.Note(ctx, audit.TokenMade, fmt.Sprintf("t%d", i%2), "n", fmt.Sprint(i), "empty", "", "long", strings.Repeat("x", 1000))
	}
	log.Note(t.Context(), audit.ConfigChanged, "hub")
	list := read(t, log, api.AuditRequest{})
	if len(list) != 6 || list[0].Who != "admin" || list[0].From != "192.0.2.1:5" || list[0].Detail["n"] != "0" || len(list[0].Detail["long"]) != 200 ||
		list[5].Who != "hub" || len(list[0].Detail) != 2 {
		t.Fatalf("got %+v", list)
	}
	for i, e := range list {
		if e.Seq != uint64(i+1) {
			t.Errorf("entry %d has number %d", i+1, e.Seq)
		}
	}
	for _, tc := range []struct {
		req  api.AuditRequest
		want string
	}{
		{api.AuditRequest{Limit: 2}, "[5 6]"},
		{api.AuditRequest{After: 2, Limit: 2}, "[3 4]"},
		{api.AuditRequest{After: 6}, "[]"},
		{api.AuditRequest{About: "t1"}, "[2 4]"},
		{api.AuditRequest{About: "t1", After: 2}, "[4]"},
		{api.AuditRequest{Limit: -1}, "[1 2 3 4 5 6]"},
	} {
		var got []uint64
		for _, e := range read(t, log, tc.req) {
			got = append(got, e.Seq)
		}
		if fmt.Sprint(got) != tc.want {
			t.Errorf("%+v: got %v, want %s", tc.req, got, tc.want)
		}
	}
	// Nobody takes an entry back.
	stream, err := js.Stream(t.Context(), subject.StreamAudit)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), 1); err == nil {
		t.Error("an entry was deleted")
	}
	if err := stream.Purge(t.Context()); err == nil {
		t.Error("the record was purged")
	}
}

// A refusal that repeats makes an entry a minute, with the number of the others.
func TestRefusalsRepeat(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	log, _ := open(t, func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	})
	why := api.Errorf(api.CodeRevoked, "", "it is void")
	for range 50 {
		log.Refuse(t.Context(), "gw1", why)
	}
	log.Refuse(t.Context(), "gw2", why)
	log.Refuse(t.Context(), "gw1", errors.New("another reason"))
	if list := read(t, log, api.AuditRequest{}); len(list) != 3 || list[0].Code != api.CodeRevoked || list[2].Code != api.CodeInternal {
		t.Errorf("got %+v, want 3 entries", list)
	}
	mu.Lock()
	now = now.Add(time.Minute)
	mu.Unlock()
	log.Refuse(t.Context(), "gw1", why)
	if list := read(t, log, api.AuditRequest{Limit: 1}); list[0].Detail["more"] != "49" {
		t.Errorf("got %+v, want 49 more", list[0])
	}
	// Thousands of names make no more than is remembered.
	for i := range 3000 {
		log.Refuse(t.Context(), fmt.Sprint("name", i), why)
	}
	if n := len(read(t, log, api.AuditRequest{After: 4, Limit: 1000})); n != 1000 {
		t.Errorf("got %d", n)
	}
	if list := read(t, log, api.AuditRequest{After: 1100, Limit: 1000}); len(list) > 0 {
		t.Errorf("%d entries more than are remembered", len(list))
	}
	var none *audit.Log
	none.Note(t.Context(), audit.TokenMade, "x")
	none.Refuse(t.Context(), "x", why)
}
