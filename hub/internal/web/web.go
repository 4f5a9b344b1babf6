// Package web serves the HTTP API of administrators, /api/v1. Each request is
// one of those that programs send by NATS (package manage), so that both do
// the same; what differs is who asks.
package web

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/sapflow/sapflow/hub/internal/audit"
	"github.com/sapflow/sapflow/shared/api"
)

// Path is what Handler serves all of, but enrolment.
const Path = "/api/v1/"

const (
	maxBodyBytes = 64 << 10
	// A guesser of the token gets nowhere, and does not fill the audit.
	guessRate, guessBurst = 5, 20
)

// Config says what is served. All fields but Log must be set.
type Config struct {
	// Do does what a request asks.
	Do func(ctx context.Context, verb string, body []byte) (any, error)
	// Token is what administrators show.
	Token string
	Audit *audit.Log
	Log   zerolog.Logger
}

// routes says which request a method and path are. {id} and {slot} become
// fields of its body.
var routes = map[string]string{
	"GET devices":              "list",
	"POST devices":             "add",
	"GET devices/{id}":         "show",
	"DELETE devices/{id}":      "remove",
	"POST devices/{id}/token":  "token",
	"POST devices/{id}/accept": "accept",
	"POST devices/{id}/reject": "reject",
	"POST devices/{id}/revoke": "revoke",
	"GET tokens":               "tokenlist",
	"POST tokens":              "tokenadd",
	"DELETE tokens/{id}":       "tokenremove",
	"GET audit":                "audit",
	"POST keys/{slot}/roll":    "roll",
}

// Handler answers requests that bring the token: Authorization: Bearer TOKEN.
func Handler(cfg Config) http.Handler {
	h := &handler{
		cfg: cfg, log: cfg.Log.With().Str("component", "web").Logger(),
		token: sha256.Sum256([]byte(cfg.Token)), guesses: rate.NewLimiter(guessRate, guessBurst),
	}
	mux := http.NewServeMux()
	for route, verb := range routes {
		method, path, _ := strings.Cut(route, " ")
		mux.HandleFunc(method+" "+Path+path, func(w http.ResponseWriter, r *http.Request) { h.answer(w, r, verb) })
	}
	mux.HandleFunc(Path, func(w http.ResponseWriter, r *http.Request) {
		api.WriteError(w, api.Errorf(api.CodeNotFound, "see API.md", "there is no %s %s", r.Method, r.URL.Path))
	})
	return h.guard(mux)
}

type handler struct {
	cfg     Config
	log     zerolog.Logger
	token   [sha256.Size]byte
	guesses *rate.Limiter
}

// errToken is the answer to whoever is no administrator.
var errToken = api.Errorf(api.CodeUnauthorized, "send Authorization: Bearer with what DIR/admin.token holds", "the token of an administrator is missing or wrong")

// guard lets administrators pass.
func (h *handler) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		sum := sha256.Sum256([]byte(got))
		if subtle.ConstantTimeCompare(sum[:], h.token[:]) != 1 {
			if !h.guesses.Allow() {
				w.Header().Set("Retry-After", "5")
				api.WriteError(w, api.Errorf(api.CodeBusy, "try again in a few seconds", "too many requests without the token"))
				return
			}
			h.log.Warn().Str("remote_addr", r.RemoteAddr).Str("path", r.URL.Path).Msg("request without the token")
			if got != "" { // a browser that only looks is nothing to record
				h.cfg.Audit.Refuse(audit.By(r.Context(), "unknown", r.RemoteAddr), "http", errToken, "path", r.URL.Path)
			}
			w.Header().Set("WWW-Authenticate", "Bearer")
			api.WriteError(w, errToken)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// answer does a request.
func (h *handler) answer(w http.ResponseWriter, r *http.Request, verb string) {
	body, err := request(w, r)
	var result any
	if err == nil {
		result, err = h.cfg.Do(audit.By(r.Context(), "admin", r.RemoteAddr), verb, body)
	}
	switch {
	case err != nil:
		api.WriteError(w, err)
	case r.Method == http.MethodDelete, verb == "revoke":
		w.WriteHeader(http.StatusNoContent)
	default:
		api.WriteJSON(w, http.StatusOK, result)
	}
}

// request makes the body of a request of path, query and body.
func request(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	fields := map[string]any{}
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBodyBytes)).Decode(&fields)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, api.Errorf(api.CodeBadRequest, "send an object in JSON, up to 64 KB", "the body cannot be read")
	}
	if fields == nil { // the body is null
		fields = map[string]any{}
	}
	if id := r.PathValue("id"); id != "" {
		fields["id"] = id
	}
	numbers := map[string]string{"slot": r.PathValue("slot")}
	for name := range r.URL.Query() {
		switch value := r.URL.Query().Get(name); name {
		case "after", "limit":
			numbers[name] = value
		case "about":
			fields[name] = value
		default:
			return nil, api.Errorf(api.CodeInvalid, "ask after, limit or about", "there is no question %q", name)
		}
	}
	for name, text := range numbers {
		if text == "" {
			continue
		}
		n, err := strconv.ParseUint(text, 10, 62)
		if err != nil {
			return nil, api.Errorf(api.CodeInvalid, "give a whole number", "%s is %q", name, text)
		}
		fields[name] = n
	}
	return json.Marshal(fields)
}
