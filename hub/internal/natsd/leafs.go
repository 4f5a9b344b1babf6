package natsd

import (
	"net"
	"strconv"

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
	ServerName string // what the other end calls itself; not authenticated
	RemoteAddr string // host:port
	InBytes    int64  // message bytes from the gateway in this connection
	OutBytes   int64  // message bytes to the gateway in this connection
}

// Leafs returns the live connections of gateways.
func (s *Server) Leafs() []LeafInfo {
	leafz, err := s.ns.Leafz(&server.LeafzOptions{Account: s.keys.AccountID(cred.DEVICES)})
	if err != nil {
		return nil // Leafz has no error to return
	}
	var infos []LeafInfo
	for _, leaf := range leafz.Leafs {
		conn := s.ns.GetLeafNode(leaf.ID)
		if conn == nil {
			continue // closed since
		}
		claims, err := jwt.DecodeUserClaims(conn.GetOpts().JWT)
		if err != nil {
			continue // authenticated without a JWT: impossible in operator mode
		}
		infos = append(infos, LeafInfo{
			CID: leaf.ID, ID: claims.Name, PublicKey: claims.Subject, ServerName: leaf.Name,
			RemoteAddr: net.JoinHostPort(leaf.IP, strconv.Itoa(leaf.Port)),
			InBytes:    leaf.InBytes, OutBytes: leaf.OutBytes,
		})
	}
	return infos
}

// KickDevice closes the connections of a gateway, which may come back.
func (s *Server) KickDevice(id string) {
	for _, leaf := range s.Leafs() {
		if leaf.ID == id {
			_ = s.ns.DisconnectClientByID(leaf.CID) // fails if closed since
		}
	}
}
