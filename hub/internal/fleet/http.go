package fleet

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"
)

// EnrollPath is where Handler listens.
const EnrollPath = "/api/v1/enroll"

const (
	maxEnrollBytes = 8 << 10
	// Each enrolment costs a sync to disk and two signatures. A fleet that
	// is set up at once retries; a guesser gets nowhere.
	enrollRate  = 10 // a second, over all senders
	enrollBurst = 50
)

// Failure is the body of every answer that is not 200.
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

// failures maps what Enroll returns to what a gateway is told.
var failures = []struct {
	err    error
	status int
	Failure
}{
	{ErrTokenInvalid, http.StatusForbidden, Failure{"token_invalid", "the token is not valid", "copy the whole enrol line, or make a new token: sapflow-hub device token NODE"}},
	{ErrTokenUsed, http.StatusConflict, Failure{"token_used", "the token was used already, by another gateway or disk", "make a new token: sapflow-hub device token NODE"}},
	{ErrTokenExpired, http.StatusForbidden, Failure{"token_expired", "the token has expired", "make a new token: sapflow-hub device token NODE"}},
	{ErrKeyInvalid, http.StatusBadRequest, Failure{"key_invalid", "the public key is not acceptable", "enrol again with a new key"}},
	{ErrProofInvalid, http.StatusBadRequest, Failure{"proof_invalid", "the signature does not belong to the token and key", "sign token and key with the seed of the key"}},
}

// Handler answers POST /api/v1/enroll. It asks for no credential but the
// token, so it is limited in size and rate.
func Handler(r *Registry, log zerolog.Logger) http.Handler {
	h := &handler{
		registry: r,
		log:      log.With().Str("component", "fleet").Logger(),
		limit:    rate.NewLimiter(enrollRate, enrollBurst),
	}
	mux := http.NewServeMux()
	mux.Handle("POST "+EnrollPath, h)
	return mux
}

type handler struct {
	registry *Registry
	log      zerolog.Logger
	limit    *rate.Limiter
}

// ServeHTTP enrols one gateway.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !h.limit.Allow() {
		w.Header().Set("Retry-After", "5")
		writeJSON(w, http.StatusTooManyRequests, Failure{"busy", "too many enrolments at once", "try again in a few seconds"})
		return
	}
	var req EnrollRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxEnrollBytes)).Decode(&req); err != nil {
		writeJSON(w, http.StatusBadRequest, Failure{"bad_request", "the body is not an enrolment in JSON", "send {token, publicKey, signature}, up to 8 KB"})
		return
	}
	reply, err := h.registry.Enroll(r.Context(), req)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, reply)
}

func (h *handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	for _, f := range failures {
		if errors.Is(err, f.err) {
			h.log.Warn().Str("code", f.Code).Str("remote_addr", r.RemoteAddr).Msg("enrolment refused")
			writeJSON(w, f.status, f.Failure)
			return
		}
	}
	h.log.Error().Err(err).Str("remote_addr", r.RemoteAddr).Msg("enrolment failed")
	writeJSON(w, http.StatusInternalServerError, Failure{"internal", "the hub could not do it", "try again with the same token; the hub's log says why"})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the other end is gone: nobody to tell
}
