package natsd

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/sapflow/sapflow/hub/internal/cred"
)

// LeafInfo is one live connection of a gateway. Two at a time with the same
// ID mean that two boxes share a credential.
type LeafInfo struct {
	CID        uint64 // the server's number of the connection
	ID         string // the gateway, as its JWT says
	PublicKey  string // the user key that signed in
	Issuer     string // the key that signed its JWT
	ServerName string // what the other end calls itself; not authenticated
	RemoteAddr string // host:port
	InBytes    int64  // message bytes from the gateway in this connection
	OutBytes   int64  // message bytes to the gateway in this connection
}

// identity is who a connection is of.
type identity struct{ id, publicKey, issuer string }

// Leafs returns the live connections of gateways.
func (s *Server) Leafs() []LeafInfo {
	leafz, err := s.ns.Leafz(&server.LeafzOptions{Account: s.keys.AccountID(cred.DEVICES)})
	if err != nil {
		return nil // Leafz has no error to return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.ids
	s.ids = make(map[uint64]identity, len(leafz.Leafs))
	var infos []LeafInfo
	for _, leaf := range leafz.Leafs {
		who, ok := known[leaf.ID] // decoding a JWT takes longer than all else here
		if !ok {
			conn := s.ns.GetLeafNode(leaf.ID)
			if conn == nil {
				continue // closed since
			}
			claims, err := jwt.DecodeUserClaims(conn.GetOpts().JWT)
			if err != nil {
				continue // authenticated without a JWT: impossible in operator mode
			}
			who = identity{claims.Name, claims.Subject, claims.Issuer}
		}
		s.ids[leaf.ID] = who
		infos = append(infos, LeafInfo{
			CID: leaf.ID, ID: who.id, PublicKey: who.publicKey, Issuer: who.issuer, ServerName: leaf.Name,
			RemoteAddr: net.JoinHostPort(leaf.IP, strconv.Itoa(leaf.Port)),
			InBytes:    leaf.InBytes, OutBytes: leaf.OutBytes,
		})
	}
	return infos
}

// maxInterest is how many subjects of its own a gateway may ask for; an honest
// one does for one. The server takes some more and then none (cred).
const maxInterest = 8

// ldsPrefix begins a subject that each server makes up and asks for, to find
// out when it hears itself.
const ldsPrefix = "$LDS."

// Overhearing closes the connections of gateways that asked for more than an
// honest one does, and tells of them.
func (s *Server) Overhearing(tell func(Event)) {
	leafz, err := s.ns.Leafz(&server.LeafzOptions{Account: s.keys.AccountID(cred.DEVICES), Subscriptions: true})
	if err != nil {
		return // Leafz has no error to return
	}
	wants := make(map[uint64][]string, len(leafz.Leafs))
	for _, leaf := range leafz.Leafs {
		wants[leaf.ID] = leaf.Subs
	}
	leafs := s.Leafs()
	slices.SortFunc(leafs, func(a, b LeafInfo) int { return cmp.Compare(a.CID, b.CID) })
	loops := map[string]string{} // who asked for one first
	for _, leaf := range leafs {
		what := ""
		if len(wants[leaf.CID]) > maxInterest {
			what = RefusedSubs
		}
		for _, subject := range wants[leaf.CID] {
			switch {
			case strings.HasPrefix(subject, "to."+leaf.ID+"."):
			case strings.HasPrefix(subject, ldsPrefix) && (loops[subject] == "" || loops[subject] == leaf.ID):
				loops[subject] = leaf.ID
			default:
				what = RefusedInterest
			}
		}
		if what != "" {
			s.Kick(leaf.CID)
			tell(Event{What: what, ID: leaf.ID, PublicKey: leaf.PublicKey, CID: leaf.CID, ServerName: leaf.ServerName, Reason: "interest"})
		}
	}
}

// Kick closes a connection of a gateway, which may come back.
func (s *Server) Kick(cid uint64) {
	_ = s.ns.DisconnectClientByID(cid) // fails if closed since
}

// KickDevice closes the connections of a gateway, which may come back.
func (s *Server) KickDevice(id string) {
	for _, leaf := range s.Leafs() {
		if leaf.ID == id {
			s.Kick(leaf.CID)
		}
	}
}

// SignedBy returns the gateways that are connected with a JWT that a key has
// signed.
func (s *Server) SignedBy(publicKey string) (ids []string) {
	for _, leaf := range s.Leafs() {
		if leaf.Issuer == publicKey && !slices.Contains(ids, leaf.ID) {
			ids = append(ids, leaf.ID)
		}
	}
	return ids
}
