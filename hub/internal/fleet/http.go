package fleet

import (
	"encoding/json"
	"net/http"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/sapflow/sapflow/hub/internal/audit"
	"github.com/sapflow/sapflow/shared/api"
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
		api.WriteError(w, api.Errorf(api.CodeBusy, "try again in a few seconds", "too many enrolments at once"))
		return
	}
	var req EnrollRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxEnrollBytes)).Decode(&req); err != nil {
		api.WriteError(w, api.Errorf(api.CodeBadRequest, "send {token, publicKey, signature}, up to 8 KB", "the body is not an enrolment in JSON"))
		return
	}
	reply, err := h.registry.Enroll(audit.By(r.Context(), "", r.RemoteAddr), req)
	switch {
	case err != nil && api.CodeOf(err) == api.CodeInternal:
		h.log.Error().Err(err).Str("remote_addr", r.RemoteAddr).Msg("enrolment failed")
		api.WriteError(w, api.Errorf(api.CodeInternal, "try again with the same token; the hub's log says why", "the hub could not do it"))
	case err != nil:
		h.log.Warn().Str("code", string(api.CodeOf(err))).Str("remote_addr", r.RemoteAddr).Msg("enrolment refused")
		api.WriteError(w, err)
	case reply.State == StatePending:
		api.WriteJSON(w, http.StatusAccepted, reply)
	default:
		api.WriteJSON(w, http.StatusOK, reply)
	}
}
