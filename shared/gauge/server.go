package gauge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sapflow/sapflow/shared/natslog"
)

// Config says where figures are shown.
type Config struct {
	// Listen is host:port, port 0 for a free one; default a free one of loopback.
	Listen string
	// Fallback lets an address that is taken become a free port of its host.
	Fallback bool
	// Local refuses an address that other machines reach.
	Local bool
	// Version is that of the program.
	Version string
}

// Part is what a process that has started tells about itself.
type Part struct {
	// Write writes its figures.
	Write func(*Writer)
	// Ready returns why it cannot do what it is for, Alive why it must be started
	// anew. Alive may block instead, where something does not go on.
	Ready, Alive func() error
}

// Server answers /metrics, /healthz and /readyz.
type Server struct {
	cfg  Config
	ln   net.Listener
	mux  *http.ServeMux
	part atomic.Pointer[Part] // nil until the process has started
}

// timeouts of a scrape: figures are small and the way is short.
const (
	headerWait = 5 * time.Second
	answerWait = 30 * time.Second
	stopWait   = time.Second
)

// Listen opens the address; Run answers there.
func Listen(cfg Config) (*Server, error) {
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	if cfg.Local && !natslog.Loopback(host) {
		return nil, fmt.Errorf("metrics on %s would be open to other machines: give an address of this one, such as 127.0.0.1", cfg.Listen)
	}
	ln, err := net.Listen("tcp", cfg.Listen)
	if cfg.Fallback && errors.Is(err, syscall.EADDRINUSE) {
		ln, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
	}
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w; free the port or give another --metrics", err)
	}
	s := &Server{cfg: cfg, ln: ln, mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /metrics", s.metrics)
	s.mux.HandleFunc("GET /healthz", s.answer(func(p *Part) error { return p.Alive() }, nil))
	s.mux.HandleFunc("GET /readyz", s.answer(func(p *Part) error { return p.Ready() }, errStarting))
	return s, nil
}

// Addr returns host:port.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Attach tells that the process has started.
func (s *Server) Attach(p Part) { s.part.Store(&p) }

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	srv := &http.Server{Handler: s, ReadHeaderTimeout: headerWait, ReadTimeout: headerWait, WriteTimeout: answerWait}
	stopped := context.AfterFunc(ctx, func() {
		stop, cancel := context.WithTimeout(context.Background(), stopWait)
		defer cancel()
		if srv.Shutdown(stop) != nil {
			_ = srv.Close()
		}
	})
	defer stopped()
	if err := srv.Serve(s.ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close frees an address that nobody answers at.
func (s *Server) Close() { _ = s.ln.Close() }

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	var out Writer
	out.Gauge("build_info", "Always 1; the version is its label.").Set(1, "version", s.cfg.Version)
	writeProcess(&out)
	ready := out.Gauge("ready", "Whether it has started and its log can be written.")
	if p := s.part.Load(); p == nil {
		ready.Set(0)
	} else {
		ready.Bool(p.Ready() == nil)
		p.Write(&out)
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(out.buf.Bytes())
}

var errStarting = errors.New("starting")

// answer returns a handler of a question; before the start is complete the
// answer is early.
func (s *Server) answer(ask func(*Part) error, early error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		err := early
		if p := s.part.Load(); p != nil {
			err = ask(p)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}
