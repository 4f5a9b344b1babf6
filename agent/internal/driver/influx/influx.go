// Package influx is the driver for whatever posts line protocol: Telegraf, and
// any client of InfluxDB.
//
// Of `cpu,host=a,cpu=cpu0 usage_idle=99` the node is what the tags of nodeTags
// say (a), the type measurement and field (cpu_usage_idle; the measurement
// alone where the field is "value"), the key the values of the other tags in
// order of their names (cpu0). What is answered with 204 is durable. A line
// that cannot be taken is told and left out, as InfluxDB does, and the others
// are kept.
package influx

import (
	"cmp"
	"compress/gzip"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/influxdata/line-protocol/v2/lineprotocol"

	"github.com/sapflow/sapflow/agent/internal/driver"
	"github.com/sapflow/sapflow/shared/point"
	"github.com/sapflow/sapflow/shared/schema"
)

// Kind is the type of node that takes line protocol.
func Kind() driver.Kind {
	return driver.Kind{Type: schema.LineProtocol, New: func() driver.Driver { return &taker{series: map[point.Series]bool{}} }}
}

const (
	// bodyMost bounds a body, unpacked.
	bodyMost = 4 << 20
	// atOnce is how many bodies are read side by side; others are told to come
	// again.
	atOnce = 4
	// aheadMost is how far ahead of now a time may be.
	aheadMost = uint64(5 * time.Minute)
	// toldMost is how many of the lines left out are told one by one.
	toldMost = 5
	// requestWait bounds a request, the wait for the disk included.
	requestWait = 30 * time.Second
)

// taker takes what is posted.
type taker struct {
	port  *driver.Port
	slots chan struct{} // of capacity atOnce

	mu     sync.Mutex
	series map[point.Series]bool // made since the start
}

// Run listens until ctx ends.
func (t *taker) Run(ctx context.Context, p *driver.Port) error {
	t.port, t.slots = p, make(chan struct{}, atOnce)
	for {
		n := p.Node()
		address := n.Text("listen")
		if err := t.serve(ctx, address, n.Text("token") != ""); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// serve listens on an address until that changes, or ctx ends.
func (t *taker) serve(ctx context.Context, address string, guarded bool) error {
	n := t.port.Node()
	err := check(address, guarded)
	var l net.Listener
	if err == nil {
		l, err = net.Listen("tcp", address)
	}
	t.port.Answer(n, err, "listen")
	if err != nil {
		return err
	}
	t.port.Well(n.ID)
	t.port.Log.Info().Str("listen", l.Addr().String()).Msg("line protocol is taken")
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/write", t.handle)
	mux.HandleFunc("POST /write", t.handle)
	mux.HandleFunc("GET /ping", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	s := &http.Server{
		Handler: mux, ReadTimeout: requestWait, WriteTimeout: 2 * requestWait, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	stop := func() {
		ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if s.Shutdown(ending) != nil { // a client that sends for ever
			_ = s.Close()
		}
		<-done
	}
	for {
		select {
		case err := <-done:
			return fmt.Errorf("listen: %w", err)
		case <-ctx.Done():
			stop()
			return nil
		case <-t.port.Changed():
			if n := t.port.Node(); n.Text("listen") != address || (n.Text("token") != "") != guarded {
				stop()
				return nil
			}
		}
	}
}

// check refuses to listen beyond this machine for whoever comes.
func check(address string, guarded bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return &schema.Refused{Code: schema.CodeRange, Reason: "must be host:port, such as 127.0.0.1:8186"}
	}
	if ip := net.ParseIP(host); !guarded && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return &schema.Refused{Code: schema.CodeRange, Reason: "set a token before it listens beyond this machine"}
	}
	return nil
}

// handle takes one body.
func (t *taker) handle(w http.ResponseWriter, r *http.Request) {
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	default:
		w.Header().Set("Retry-After", "1")
		refuse(w, r, http.StatusServiceUnavailable, "unavailable", "too many writes at once")
		return
	}
	n := t.port.Node()
	if token := n.Text("token"); token != "" && subtle.ConstantTimeCompare([]byte(tokenOf(r)), []byte(token)) != 1 {
		refuse(w, r, http.StatusUnauthorized, "unauthorized", "the token is missing or wrong")
		return
	}
	unit, ok := units[r.URL.Query().Get("precision")]
	if !ok {
		refuse(w, r, http.StatusBadRequest, "invalid", "precision must be ns, us, ms or s, at /write also m or h")
		return
	}
	body, err := read(w, r)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large), errors.Is(err, errLarge):
		refuse(w, r, http.StatusRequestEntityTooLarge, "request too large", fmt.Sprintf("a body has at most %d bytes, unpacked too", bodyMost))
		return
	case err != nil:
		refuse(w, r, http.StatusBadRequest, "invalid", err.Error())
		return
	}
	b := batch{taker: t, node: n, unit: unit, now: t.port.Now(), tags: strings.Fields(n.Text("nodeTags"))}
	b.decode(body)
	t.port.Put(b.points...)
	ctx, cancel := context.WithTimeout(r.Context(), requestWait)
	defer cancel()
	if err := t.port.Commit(ctx); err != nil {
		refuse(w, r, http.StatusServiceUnavailable, "unavailable", "the readings are not durable yet, send them again")
		return
	}
	if b.dropped > 0 {
		err := fmt.Errorf("partial write: %s dropped=%d", strings.Join(b.told, "; "), b.dropped)
		t.port.Fail(n.ID, err)
		refuse(w, r, http.StatusBadRequest, "invalid", err.Error())
		return
	}
	t.port.Well(n.ID)
	w.WriteHeader(http.StatusNoContent)
}

// units are the precisions, of both versions.
var units = map[string]uint64{
	"": 1, "n": 1, "ns": 1, "u": 1e3, "us": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9,
}

// tokenOf returns what a client of either version gives.
func tokenOf(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if scheme == "Token" || scheme == "Bearer" {
		return token
	}
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	return r.URL.Query().Get("p")
}

var errLarge = errors.New("too large")

// read returns a body, unpacked.
func read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	var in io.Reader = http.MaxBytesReader(w, r.Body, bodyMost)
	switch r.Header.Get("Content-Encoding") {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, err
		}
		in = z
	default:
		return nil, errors.New("only gzip is unpacked")
	}
	b, err := io.ReadAll(io.LimitReader(in, bodyMost+1))
	if err == nil && len(b) > bodyMost {
		err = errLarge
	}
	return b, err
}

// refuse answers as InfluxDB does: version 1 has one text, version 2 a code
// too.
func refuse(w http.ResponseWriter, r *http.Request, status int, code, message string) {
	body := map[string]string{"error": message}
	if strings.HasPrefix(r.URL.Path, "/api/v2/") {
		body = map[string]string{"code": code, "message": message}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Influxdb-Error", strings.ToValidUTF8(oneLine(message), ""))
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone: nobody to tell
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// batch is a body while it is read.
type batch struct {
	*taker
	node *driver.Node
	unit uint64
	now  uint64
	tags []string

	points  []point.Point
	dropped int
	told    []string
}

// decode reads all lines.
func (b *batch) decode(body []byte) {
	d := lineprotocol.NewDecoderWithBytes(body)
	for line := 1; d.Next(); line++ {
		points, err := b.line(d)
		if err != nil {
			if b.dropped++; len(b.told) < toldMost {
				b.told = append(b.told, fmt.Sprintf("unable to parse entry %d: %s", line, err))
			}
			continue
		}
		b.points = append(b.points, points...)
	}
}

type tag struct{ key, value string }

// line reads one line: all of it is taken, or nothing.
func (b *batch) line(d *lineprotocol.Decoder) ([]point.Point, error) {
	m, err := d.Measurement()
	if err != nil {
		return nil, err
	}
	measurement := string(m)
	var tags []tag
	for {
		k, v, err := d.NextTag()
		if err != nil {
			return nil, err
		}
		if k == nil {
			break
		}
		tags = append(tags, tag{string(k), string(v)})
	}
	name, key := b.place(measurement, tags)
	var points []point.Point
	for {
		k, v, err := d.NextField()
		if err != nil {
			return nil, err
		}
		if k == nil {
			break
		}
		p := point.Point{Series: point.Series{Type: typeOf(measurement, string(k)), Key: key}}
		setValue(&p, v)
		points = append(points, p)
	}
	at, err := b.time(d)
	if err != nil {
		return nil, err
	}
	for i := range points {
		points[i].Time = at
		points[i].Node = "n" // until it is known
		if err := point.Check(&points[i]); err != nil {
			return nil, err
		}
	}
	return points, b.admit(name, points)
}

// place returns the name of the node and the key of a line.
func (b *batch) place(measurement string, tags []tag) (name, key string) {
	slices.SortFunc(tags, func(x, y tag) int { return cmp.Compare(x.key, y.key) })
	var names, keys []string
	for _, t := range tags {
		if slices.Contains(b.tags, t.key) {
			names = append(names, t.value)
		} else {
			keys = append(keys, token(t.value))
		}
	}
	name, key = strings.Join(names, "/"), strings.Join(keys, "/")
	return cmp.Or(name, measurement), cmp.Or(key, point.NoKey)
}

// typeOf returns the type of a field's points.
func typeOf(measurement, field string) string {
	if field == "value" {
		return strings.ReplaceAll(token(measurement), "/", "_")
	}
	return strings.ReplaceAll(token(measurement+"_"+field), "/", "_")
}

// token replaces what may not stand in a subject.
func token(s string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r == 0x7f || strings.ContainsRune(".*>", r) {
			return '_'
		}
		return r
	}, s)
}

func setValue(p *point.Point, v lineprotocol.Value) {
	switch v.Kind() {
	case lineprotocol.Float:
		p.DataType, p.Data = point.Float, point.FloatData(v.FloatV())
	case lineprotocol.Int:
		p.DataType, p.Data = point.Int, point.UintData(uint64(v.IntV()))
	case lineprotocol.Uint:
		p.DataType, p.Data = point.Uint, point.UintData(v.UintV())
	case lineprotocol.Bool:
		p.DataType, p.Data = point.Uint, []byte{0}
		if v.BoolV() {
			p.Data[0] = 1
		}
	default:
		p.DataType, p.Data = point.String, []byte(v.StringV())
	}
}

// time returns the time of a line, now if it has none.
func (b *batch) time(d *lineprotocol.Decoder) (uint64, error) {
	t, err := d.TimeBytes()
	if err != nil || t == nil {
		return b.now, err
	}
	var n uint64
	for _, c := range t {
		if c < '0' || c > '9' || n > (1<<63)/10 {
			return 0, fmt.Errorf("time %s is before 1970, or too large", t)
		}
		n = 10*n + uint64(c-'0')
	}
	if n > (b.now+aheadMost)/b.unit {
		return 0, fmt.Errorf("time %s is more than 5 min in the future", t)
	}
	return n * b.unit, nil
}

// admit gives the points of a line their node, if there is room for what is
// new.
func (b *batch) admit(name string, points []point.Point) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	id, err := b.port.Child("device", name, b.node.Int("maxNodes"))
	if err != nil {
		return err
	}
	var fresh []point.Series
	for i := range points {
		points[i].Node = id
		if s := points[i].Series; !b.series[s] && !slices.Contains(fresh, s) {
			fresh = append(fresh, s)
		}
	}
	if most := b.node.Int("maxSeries"); len(b.series)+len(fresh) > most {
		return fmt.Errorf("%s would be more series than maxSeries, %d", points[0].Type, most)
	}
	for _, s := range fresh {
		b.series[s] = true
	}
	return nil
}
