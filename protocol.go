package main

// This file holds the formats: the beacons and frames that p2pchat sends, the
// records of its history file, and the lines that it prints. It also holds the
// flow, which says how many bytes of posts may be under way, and the tabs of the
// work that peers have us do. It opens no file and no connection.
//
// Beacons say where a node can be reached. Frames prove the room's key, and then
// carry posts: what an author said, numbered, chained and signed, so that it can
// come from anybody. The tables below, and the rules under Behaviour, are all that
// a second implementation needs.
//
// Integers are big endian. A body that is shorter than its fields, or has a field
// out of its range, is an error. A node's ID is its Ed25519 public key; IDs compare
// as bytes. A name is a length of 1 (at most 128), and so many bytes. An address
// is a port of 2, a length of 1 (0, 4 or 16), and so many bytes of IP. A time is µs
// since 1970 UTC, to the year 9999.
//
// Keys. A room key of 32 bytes is PBKDF2-HMAC-SHA256 of the passphrase (salt
// "p2pchat room", 600,000 rounds), or in the open room SHA-256 of
// "p2pchat open room". HKDF-SHA256-Expand of it with the info "beacon" gives
// the AES-256-GCM key of beacons, with "proof" the HMAC-SHA256 key of PROOF, and
// with "history" the room's mark in history files, of 32 bytes each.
//
// # Beacons
//
// A beacon is one UDP packet of 268 bytes: a nonce of 12, then 240 bytes
// sealed, then the tag of 16. The additional data is "p2pchat beacon 1". It goes
// to the room's port at 127.255.255.255 and, on each interface, at ff02::1, at
// the broadcast address of each IPv4 network, and at 255.255.255.255.
//
//	offset  size  field      meaning
//	     0    32  node       ID of the sender
//	    32     8  counter    grows with each beacon of a node; an older one is a replay
//	    40     2  port       where the sender listens on TCP
//	    42   1+n  name       of the sender; zeros up to 176 bytes
//	   176    64  signature  Ed25519 over "p2pchat beacon 1" and the 176 bytes before
//
// # Frames
//
// A connection is TLS 1.3 with curve X25519; both sides present a certificate
// whose key is their node ID. Within it flow frames:
//
//	offset  size  field    meaning
//	     0     4  length   of what follows: 1 to 1,048,576; to 256 in the handshake
//	     4     1  type     below
//	     5     …  body     below
//
//	type  name    body
//	   1  PROOF   mac 32: HMAC under the proof key of role 1 ("d" by the side that
//	              dialed, "l" by the other), TLS exporter 32 (label
//	              "EXPORTER-p2pchat", no context), ID of the dialing side 32, of
//	              the listening side 32
//	   2  HELLO   version 2 (1), epoch 4, time 8 (by the sender's clock, in any
//	              year), port 2 (where it listens on TCP), name 1+n
//	   3  HAVE    flags 1 (1: the vector ends here; 2: a part of it does; 4: go on
//	              with yours), taken 8 (DIRECT up to this number have arrived), then
//	              per author: ID 32, first 8, last 8 (post numbers held, or both 0),
//	              mark 8 (the first of the last post's link), address (where the
//	              sender is connected with the author; port 0: it isn't)
//	   4  WANT    per author: ID 32, from 8 (number of the first post; 0: no more),
//	              over 1 (1: or else the first later one that is held)
//	   5  POSTS   author 32, then at least one post, of consecutive numbers:
//	              length 4, post
//	   6  DIRECT  number 8, time 8, text of at most 196,608 bytes
//	   7  SEEN    author 32, kind 1 (5 lost, 6 is back), time 8, name 1+n, address
//	   8  BYE     why 1: 1 leaving, 2 duplicate, 3 you were silent, 4 idle,
//	              5 protocol error, 6 too many connections
//	   9  PART    more 1 (1: more follow), a piece of the body of a POSTS frame
//	  10  GOT     arrived 8: bytes in the bodies of all POSTS and PART so far
//
// # Posts
//
// A post is what an author said at one instant:
//
//	offset  size  field    meaning
//	     0     8  number   1, 2, 3 … of this author
//	     8     8  time     greater than that of the post before
//	    16    32  prev     link of the post before; zeros in the first
//	    48     1  kind     1 join (of number 1 only), 2 lines, 3 rename, 4 leave
//	                       (nothing follows); 5 to 9 are refused, others are kept
//	                       and not shown
//	    49   3+n  address  where the author thinks it can be reached
//	     …   1+n  name     of the author when it said this
//	     …     n  text     lines: joined by LF, so many that 48 bytes and the name
//	                       for each are at most 16 times 128 bytes, the name and
//	                       the text, and empty ones are not shown; rename: the new
//	                       name; other kinds: ignored; n at most 196,608
//	   end    64  signature  Ed25519 over the digest
//
// Its digest is SHA-256 of "p2pchat post 1", the author's ID, and the post
// without its signature; its link is SHA-256 of digest and signature. So a
// signature proves its post and all posts before it.
//
// # Behaviour
//
// Later versions.
//
//  1. A reader skips frames of unknown type, and bytes behind the fields of PROOF,
//     HELLO, SEEN, BYE and GOT. The other frames can't grow, for they end in a
//     text, a list or a piece. Nobody is refused for the version in its HELLO.
//  2. Any other error is a protocol error: BYE answers it, and the connection ends.
//
// Meeting.
//
//  3. All nodes of a host share the room's UDP port (SO_REUSEADDR, on the BSDs
//     SO_REUSEPORT as well). A node sends beacons when it starts, 0.25 s and 1 s
//     later, and then every 2 s, a quarter more or less at random; if it has more
//     than 50 connections the interval is 0.04 s for each. When three quarters of it
//     are over, a beacon is sent as soon as another is heard, so that all wake an idle
//     node together; heartbeats that are due soon go with it. If a node is connected,
//     and misses nobody who was, only every eighth round, and the answers of rule 4, go
//     by IPv6 where there is IPv4 too, or to 255.255.255.255 where the network has a
//     broadcast address. A member can seal a beacon in another's name, but not sign it:
//     a reader checks the signature before it dials a node for the first time, takes
//     another address for one that it knows, or believes that a silent node lives.
//  4. A node that hears the beacon of another that it isn't connected with dials the
//     packet's source address at the beacon's port. If that is an IPv6 one, 0.3 s are
//     left for an IPv4 one to come, which is dialed first; IPv6 is dialed when that
//     fails, or has not answered for 1 s. The lower ID dials at once. The higher
//     answers with a beacon, and dials 1 s later if they are still not connected. A
//     dial that failed is repeated after 1, 2, 4 and then every 8 s, as long as the
//     other is heard.
//  5. A node also dials the nodes that its peers are connected with, at the
//     addresses in HAVE. An address that their own beacons told in the last 7 s
//     counts for more, and so does that of a connection which is made anew. A
//     link-local one is taken to be on the peer's link if the peer is reached at a
//     link-local address itself, and else is not dialed.
//
// The handshake.
//
//  6. Of a certificate only the key counts: TLS proves it. The dialing side
//     sends PROOF first; the other answers with its own only when that was right.
//     Then the higher ID says HELLO, and the lower answers HELLO, or BYE
//     duplicate. Any other frame ends the connection, and a handshake that is not
//     done after 5 s is given up.
//  7. Of each pair one connection stands, no matter which dialed: for the lower ID from
//     when it answers HELLO, for the higher from when it hears that. The lower
//     answers BYE duplicate if a connection with the higher stands already, unless
//     that has been silent for 4 s, a new node was met at its address just now, or
//     the epoch in HELLO is greater than in the HELLO that made it.
//  8. The epoch counts what made the higher dial anew, for each lower from 0: its
//     HELLOs that failed, the connections that ended, and those that were silent
//     for 4 s; but not what ended by BYE duplicate. Two HELLOs that are under way
//     together have the same epoch. In the lower's HELLO it means nothing.
//  9. The connection that a fresh one replaces is closed by either side 5 s later,
//     and read until then: the peer may not know of the fresh one yet, and would
//     take the end of the old one for a loss. If a node's clock jumps by more
//     than 5 minutes, it says HELLO again on each connection: of that one the time
//     alone counts.
//  10. Each side says something once a second: if nothing else, a HAVE without
//     entries. Where the peer's beacons are heard, or with more than 64 connections,
//     every 3 s is enough. If nothing came on a connection for 4 s, a fresh one is
//     dialed; after 7 s the node is lost. But if its beacons are heard and TCP
//     answered the dial, packets vanish by chance, and the handshake may take its
//     5 s. If a connection ends, but not by BYE 1, 4 or 6, it is dialed anew; the
//     node is lost if nobody answers there, if another node is found that was not
//     known before, or after 4 s if no handshake has succeeded. But while a peer
//     is connected with a node, by the peer's HAVE, the node is lost only where its
//     host refuses, another took its place, or no beacon of it came for the 7 s
//     either; else when the last such peer is gone.
//
// What a node has.
//
//  11. Each side begins with its vector: one or more HAVE, the last of them with
//     flag 1, with entries for all authors whose posts it holds, itself
//     included, and for all nodes that it is connected with. After 1,024 authors
//     it says flag 2 in place of 1, and goes on when it hears flag 4. The first
//     such part holds the entries for the two nodes themselves and for all that
//     the sender is connected with; as soon as it is in, the vector counts as
//     complete for what follows. Flag 4 after the end asks for the whole vector
//     anew. A reader may pass over entries that it has no room for, and ask for
//     them in this way; but of the first part it remembers at least 64.
//  12. Later entries replace those before of the same author. One is sent
//     - to the author, when posts that came from it were taken. This is the
//     acknowledgement, and says the last number even if nothing is held any more.
//     - to everybody, when the sender's own connection with the author came, ended
//     or moved to another address.
//     - to those who won't hear the author itself: by their own entry they have
//     fewer of its posts, and are not connected with it. They are told when
//     posts of it were taken, and when their connection with it has ended.
//     - to one that asked by WANT for a number which isn't held.
//     News of the second and third kind may wait for 0.25 s, or in a large room
//     for 10 ms for each connection, to be told together.
//
// Who sends what to whom.
//
//  13. A node's own feed goes unasked to each peer, from the number behind the last
//     that the peer's vector names of it, as soon as that vector is complete and
//     its own is sent. If the peer has nothing of it, and the path is slow, what is
//     said since the connection was made may go ahead, and goes again in its turn;
//     the reader shows it at once, and only once.
//  14. The feeds of others go to those who ask by WANT, and that is a
//     subscription: what the sender gets later follows. So the number may be one
//     more than the sender has. A WANT replaces the one before of the same author.
//     It ends by one from 0, or when the author's leave was sent. A peer may have
//     4,096 of them; what it asks for beyond that is passed over.
//  15. If the sender no longer holds the next post of a feed, but a later one, it
//     says by HAVE what it has, and sends nothing more of the feed, be it its own,
//     until it is asked anew. With over 1 it goes on at the first that it holds.
//  16. A node asks one peer at a time for a feed, and another if that brought nothing
//     for 2 s. It asks at once where it has the author's vector, or no peer is connected
//     with the author, and after 0.5 s where one is. It waits 3 s where that vector is
//     still to come, or the author's beacons are heard; but 0.5 s where a peer is
//     connected with the author, and the node's own connection with it has ended or a
//     dial of it failed. It asks with over 1 only if nobody has the next post, and for
//     2 s, or 5 s if it has what lies before the gap, no post came. Where nobody has
//     more, it asks a peer that is connected with the author for what follows. Of
//     peers other than the author, one that has served for 3 s gives way to another
//     that has the next post too and never failed to send, if that served for less
//     than 3 s or twice as fast.
//  17. What is neither the sender's own feed nor was asked for is passed over, for
//     it may have crossed a WANT from 0. So are posts that were taken before, and
//     those behind a gap unless over was 1. But a run that begins behind the next
//     post, though its sender has that one by its own entry, is a protocol error,
//     unless its sender is its author and its number is not in the author's vector.
//  18. In a run that another than its author sends, the last signature must
//     verify. What the author sends is proven by TLS, so its signatures are not
//     checked before it is taken. But a node passes on only what is signed: a run
//     to another ends with its last post whose signature verifies, and if it finds
//     none, in the last 1,000 or with 200 checks a second, the subscription ends.
//  19. A post contradicts what is held of its author if it has the number of the
//     newest one and differs, has a wrong prev or time, or follows a leave. What was
//     taken before stands, nothing more of this author is taken, and the user is
//     told. From the author itself, or within a run, it is a protocol error. Where
//     the marks of two nodes differ at the same number, the user is told as well.
//  20. DIRECT are numbered upwards by each sender for each receiver, over all their
//     connections, by the time in µs, so that no number is used anew by who has
//     forgotten those before; numbers may be left out. One that isn't greater than
//     all before was taken already: it is acknowledged again, and not shown. What
//     no HAVE has acknowledged is sent again on the next connection.
//  21. SEEN goes to those who asked for the author's feed: the last 16 that the sender noted,
//     before the posts, and then what it notes. A reader passes it over if it is connected
//     with the author, or did not ask this peer for the feed; if it says what is so already,
//     or is older than what the reader noted last; if it says lost, and another peer is
//     connected with the author; if it is more than 5 minutes ahead; or if 16 of this author
//     came within a minute. To compare, a reader corrects the time by the difference between
//     HELLO's time and its own clock, but by 5 minutes at most. While no post of the author
//     was taken, up to 16 SEEN of it wait; others are passed over.
//  22. GOT is said ahead of the vector, and whenever POSTS or PART came. To a peer
//     that says GOT, a node sends no further run while a window of bytes is under
//     way, or of others' feeds 64 runs; what it says at the time, and what rule 13
//     lets go ahead, may exceed the window by a run. A window is 8 KiB at first, twice
//     as much when a full one arrived within 0.25 s, half when it took more than 1 s,
//     4 KiB to 8 MiB. A run is half a window at most, or one post. A post larger than
//     a window goes in pieces, PART, which together make the body of a POSTS frame, of
//     at most 262,144 bytes. Other frames may come between them.
//
// Parting.
//
//  23. A node that says BYE sends nothing more, and the one that hears it closes
//     the connection. If that doesn't happen, the first closes it after 0.25 s; a
//     node that leaves waits 0.6 s for all, and after BYE duplicate it closes at once.
//  24. A node that leaves says so by its last post. When the peer has acknowledged
//     that post, or has stopped its feed by rule 15, and all DIRECT, the node says
//     BYE leaving. Posts and DIRECT that come after that are not taken.
//  25. A node that has too many connections says BYE 6 on one to make room for
//     another, or closes the new one in its handshake. After BYE 6 the two dial each
//     other again after 8 s at the earliest, and neither counts as lost for that.
//  26. After BYE idle both are still connected for what their vectors say. The one
//     that has something to say dials again. If no beacon came for 3 s, each
//     tries every 3 s to make a TLS handshake, and closes; if that fails, or
//     finds another node, the other is lost.
//
// Lines show an author at the address where it was last reached when the event came: that of
// the connection, with the port in HELLO. What came before the author was ever reached shows
// the address in the post, or in SEEN, and a question mark behind it. Where two nodes claim one
// port of one address, it is that of the node which was dialed there, or came first.
//
// # The history file
//
// It begins with the line "p2pchat history 1"; then come records:
//
//	offset  size  field    meaning
//	     0     4  marker   f5 70 32 63: where reading goes on after damage
//	     4     4  length   of what follows the check
//	     8     4  check    CRC-32C of what follows
//	    12     1  type     1 post, 2 note (kinds 5 lost, 6 is back, 7 direct from,
//	                       8 direct to, 9 is now at the address in the text; laid
//	                       out as a post without signature), 3 room: each launch
//	                       says whose history this is, 4 post and 5 note of an
//	                       author that had been reached; others are skipped
//	    13    32  author   of the post, or that the note is about; or the room's mark
//	    45     …  body     the post, or the note; of types 4 and 5 behind the
//	                       address of the author, 1+n of text: ip:port
//
// Behind the check each byte f5 is followed by 00, so that a marker stands nowhere but where a
// record begins, whatever somebody says. Length and check are of what stands in the file.

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	version       = 1
	maxFrame      = 1 << 20        // bytes; far above the largest post
	largeFrame    = maxLine + 4096 // bytes; more than a line takes
	maxLine       = 1 << 16        // bytes of one line of input
	maxText       = 3 * maxLine    // a line whose every byte became U+FFFD
	maxRun        = 1 << 18        // bytes of posts that a sender puts into one frame, unless one post is larger
	smallRun      = 1 << 14        // to a peer that doesn't say what arrives, or where many don't read
	maxNameBytes  = 128            // 32 characters of 4 bytes
	maxStranger   = 256            // bytes of a frame in the handshake
	beaconSigned  = 176            // bytes of a beacon before its signature
	beaconPlain   = beaconSigned + signatureSize
	beaconSize    = beaconPlain + 28 // bytes of a beacon once it is sealed
	signatureSize = ed25519.SignatureSize
	maxUnsigned   = 1000                // posts that are looked through for the last that is signed
	latestTime    = 253402300799_999999 // the last microsecond of the year 9999, µs
)

const (
	frameProof  = 1
	frameHello  = 2
	frameHave   = 3
	frameWant   = 4
	framePosts  = 5
	frameDirect = 6
	frameSeen   = 7
	frameBye    = 8
	framePart   = 9
	frameGot    = 10
)

const (
	byeLeaving   = 1
	byeDuplicate = 2
	byeSilent    = 3
	byeIdle      = 4
	byeProtocol  = 5
	byeFull      = 6
)

const (
	kindJoin       = 1
	kindLines      = 2
	kindRename     = 3
	kindLeave      = 4
	kindLost       = 5 // this and the following are notes: what a node noticed itself
	kindBack       = 6
	kindDirectFrom = 7
	kindDirectTo   = 8
	kindMoved      = 9
)

var errOtherRoom = errors.New("it is of a room with another secret")

// A nodeID is a node's Ed25519 public key, made at launch.
type nodeID [ed25519.PublicKeySize]byte

func (id nodeID) less(other nodeID) bool { return bytes.Compare(id[:], other[:]) < 0 }
func (id nodeID) String() string         { return hex.EncodeToString(id[:4]) }

// A link is the hash of a post and, by its prev, of all that its author said before.
type link [sha256.Size]byte

// ---- primitive fields

// A fields takes the fields of a body one after the other. Once one was not
// there in full, or out of its range, bad is set and all further ones are zero.
type fields struct {
	b   []byte
	bad bool
}

// require marks f as bad unless ok.
func (f *fields) require(ok bool) {
	if !ok {
		f.bad, f.b = true, nil
	}
}

func (f *fields) bytes(n int) []byte {
	if f.require(n >= 0 && n <= len(f.b)); f.bad {
		return nil
	}
	v := f.b[:n:n]
	f.b = f.b[n:]
	return v
}

func (f *fields) uint(size int) (v uint64) {
	for _, c := range f.bytes(size) {
		v = v<<8 | uint64(c)
	}
	return v
}

func (f *fields) id() (id nodeID) {
	copy(id[:], f.bytes(len(id)))
	return id
}

// time takes a time, in µs since 1970 UTC.
func (f *fields) time() int64 {
	t := f.uint(8)
	f.require(t <= latestTime)
	return int64(t)
}

// text takes all that is left.
func (f *fields) text() []byte {
	f.require(len(f.b) <= maxText)
	return f.b
}

func (f *fields) err(what string) error {
	if f.bad {
		return fmt.Errorf("%s: a field is missing or out of range", what)
	}
	return nil
}

func appendName(b []byte, name string) []byte {
	return append(append(b, byte(len(name))), name...)
}

func (f *fields) name() []byte {
	b := f.bytes(int(f.uint(1)))
	f.require(len(b) <= maxNameBytes)
	return b
}

func appendAddr(b []byte, a netip.AddrPort) []byte {
	ip := a.Addr().AsSlice()
	b = binary.BigEndian.AppendUint16(b, a.Port())
	return append(append(b, byte(len(ip))), ip...)
}

// parsePlace parses an address and a port as text. It refuses a zone that breaks a line.
func parsePlace(b []byte) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(string(b))
	if strings.Trim(a.Addr().Zone(), zoneLetters) != "" {
		return netip.AddrPort{}, fmt.Errorf("zone %q", a.Addr().Zone())
	}
	return a, err
}

func (f *fields) addr() netip.AddrPort {
	port := uint16(f.uint(2))
	ip := f.bytes(int(f.uint(1)))
	a, ok := netip.AddrFromSlice(ip)
	f.require(ok || len(ip) == 0)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// ---- keys

// A roomKey holds the keys that the members of a room share. Immutable.
type roomKey struct {
	beacon cipher.AEAD
	proof  []byte
	mark   nodeID // names the room in its history file, in the place of an author
}

// newRoomKey returns the keys of the room with this passphrase, or of the open room
// if it is empty. Deriving them takes a noticeable part of a second.
func newRoomKey(passphrase string) *roomKey {
	open := sha256.Sum256([]byte("p2pchat open room"))
	key := open[:]
	if passphrase != "" {
		key = noError(pbkdf2.Key(sha256.New, passphrase, []byte("p2pchat room"), 600_000, 32))
	}
	beacon := noError(hkdf.Expand(sha256.New, key, "beacon", 32))
	return &roomKey{
		beacon: noError(cipher.NewGCMWithRandomNonce(noError(aes.NewCipher(beacon)))),
		proof:  noError(hkdf.Expand(sha256.New, key, "proof", 32)),
		mark:   nodeID(noError(hkdf.Expand(sha256.New, key, "history", 32))),
	}
}

// noError returns v. It panics on an error, which only a bug of ours can cause here.
func noError[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// proofOf returns the MAC by which the given role ("d" or "l") shows that it
// knows the room key, on this one channel between these two nodes.
func (r *roomKey) proofOf(role string, exporter []byte, dialer, listener nodeID) []byte {
	m := hmac.New(sha256.New, r.proof)
	m.Write(slices.Concat([]byte(role), exporter, dialer[:], listener[:]))
	return m.Sum(nil)
}

// prove exchanges the proofs of r on a connection of two nodes, which has the given
// exporter. The dialing side begins. The other shows nothing before it has seen a
// good one; its own proof is returned, to be sent with what it says next.
func (r *roomKey) prove(c io.ReadWriter, dialed bool, self, peer nodeID, exporter []byte) (say []byte, err error) {
	mine, want := r.proofOf("l", exporter, peer, self), r.proofOf("d", exporter, peer, self)
	if dialed {
		mine, want = r.proofOf("d", exporter, self, peer), r.proofOf("l", exporter, self, peer)
	}
	say = appendProof(nil, mine)
	if dialed {
		if _, err := c.Write(say); err != nil {
			return nil, err
		}
		say = nil
	}
	typ, mac, err := readFrame(c, maxStranger)
	if err != nil {
		return nil, fmt.Errorf("proof: %w", err)
	}
	if typ != frameProof || !hmac.Equal(mac[:min(len(mac), len(want))], want) {
		return nil, errors.New("the other side doesn't know the key of this room")
	}
	return say, nil
}

// tlsConfig returns what both sides of a connection use. The certificate says
// nothing but the key. Of that of a peer only the key counts, which TLS proves that the
// peer has, and which identify looks at.
func tlsConfig(key ed25519.PrivateKey) *tls.Config {
	template := &x509.Certificate{
		NotBefore: time.Unix(0, 0),
		NotAfter:  time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	der := noError(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return &tls.Config{
		Certificates:                []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:                  tls.RequireAnyClientCert,
		InsecureSkipVerify:          true, // there is nobody to vouch for a key: it is the identity
		MinVersion:                  tls.VersionTLS13,
		CurvePreferences:            []tls.CurveID{tls.X25519},
		SessionTicketsDisabled:      true, // nobody resumes
		DynamicRecordSizingDisabled: true,
	}
}

// identify returns what TLS has proven on a connection: who the other side is, and
// the exporter, a secret that is the same on both sides and on no other connection.
func identify(state tls.ConnectionState) (peer nodeID, exporter []byte, err error) {
	key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return peer, nil, errors.New("its key is not an Ed25519 key")
	}
	exporter, err = state.ExportKeyingMaterial("EXPORTER-p2pchat", nil, 32)
	return nodeID(key), exporter, err
}

// ---- beacons

type beacon struct {
	node    nodeID
	counter uint64
	port    uint16
	name    string
	plain   [beaconPlain]byte // all of it, as it came; for verify alone
}

var beaconLabel = []byte("p2pchat beacon 1")

// sealBeacon signs x with the key of its node, and seals it for the room.
func (r *roomKey) sealBeacon(key ed25519.PrivateKey, x beacon) []byte {
	b := make([]byte, 0, beaconPlain)
	b = append(b, x.node[:]...)
	b = binary.BigEndian.AppendUint64(b, x.counter)
	b = binary.BigEndian.AppendUint16(b, x.port)
	b = appendName(b, x.name)[:beaconSigned]
	b = append(b, ed25519.Sign(key, slices.Concat(beaconLabel, b))...)
	return r.beacon.Seal(nil, nil, b, beaconLabel)
}

// openBeacon is the inverse of sealBeacon; it fails for what is not a beacon
// of this room, and leaves the signature to verify. It writes over packet.
func (r *roomKey) openBeacon(packet []byte) (x beacon, err error) {
	if len(packet) != beaconSize {
		return x, fmt.Errorf("beacon of %d bytes, want %d", len(packet), beaconSize)
	}
	plain, err := r.beacon.Open(packet[:0], nil, packet, beaconLabel)
	if err != nil {
		return x, err
	}
	f := fields{b: plain[:beaconSigned]}
	x.node, x.counter, x.port, x.name = f.id(), f.uint(8), uint16(f.uint(2)), string(f.name())
	copy(x.plain[:], plain)
	return x, f.err("beacon")
}

// verify says whether the node that x names made it. That takes 120 µs.
func (x *beacon) verify() bool {
	return ed25519.Verify(x.node[:], slices.Concat(beaconLabel, x.plain[:beaconSigned]), x.plain[beaconSigned:])
}

// ---- frames

// beginFrame starts a frame; endFrame, given the buffer's length before, fills in its own.
func beginFrame(b []byte, typ byte) []byte { return append(b, 0, 0, 0, 0, typ) }

func endFrame(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

// readFrame reads one frame of at most limit bytes, without its length.
func readFrame(r io.Reader, limit int) (typ byte, body []byte, err error) {
	typ, size, err := readHead(r, limit)
	if err == nil {
		body, err = readBody(r, size)
	}
	return typ, body, err
}

// readHead reads the type of a frame, and returns the size of its body.
func readHead(r io.Reader, limit int) (typ byte, size int, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, err
	}
	size = int(binary.BigEndian.Uint32(head[:])) - 1
	if size < 0 || size >= limit {
		return 0, 0, fmt.Errorf("frame of %d bytes, limit %d", size+1, limit)
	}
	return head[4], size, nil
}

// readBody reads the body of a frame, into memory of its own, since the history keeps
// the posts in it. It takes all the memory for a large one only when part has come.
func readBody(r io.Reader, size int) ([]byte, error) {
	begun := size
	if size > largeFrame {
		begun = 16 << 10
	}
	body := make([]byte, begun)
	_, err := io.ReadFull(r, body)
	if err == nil && begun < size {
		body = append(make([]byte, 0, size), body...)[:size]
		_, err = io.ReadFull(r, body[begun:])
	}
	return body, err
}

func appendProof(b, mac []byte) []byte {
	return endFrame(append(beginFrame(b, frameProof), mac...), len(b))
}

type hello struct {
	epoch uint32
	time  int64 // the sender's clock, µs since 1970
	port  uint16
	name  string
}

func appendHello(b []byte, x hello) []byte {
	start := len(b)
	b = beginFrame(b, frameHello)
	b = binary.BigEndian.AppendUint16(b, version)
	b = binary.BigEndian.AppendUint32(b, x.epoch)
	b = binary.BigEndian.AppendUint64(b, uint64(x.time))
	b = binary.BigEndian.AppendUint16(b, x.port)
	return endFrame(appendName(b, x.name), start)
}

func parseHello(body []byte) (x hello, err error) {
	f := fields{b: body}
	f.uint(2) // the version: nobody is refused for it
	x = hello{uint32(f.uint(4)), int64(f.uint(8)), uint16(f.uint(2)), string(f.name())}
	return x, f.err("hello")
}

// readHello reads the peer's HELLO, or why there is none.
func readHello(r io.Reader) (x hello, err error) {
	typ, body, err := readFrame(r, maxStranger)
	switch {
	case err != nil:
		return x, err
	case typ == frameHello:
		return parseHello(body)
	case typ == frameBye:
		why, err := parseBye(body)
		return x, cmp.Or(err, error(byeError(why)))
	}
	return x, fmt.Errorf("turned away by a frame of type %d", typ)
}

// A span says which posts of an author somebody holds. The zero span is none.
type span struct {
	first, last uint64
	mark        uint64 // first 8 bytes of the link of the last post: two histories of the same length differ here
}

// Flags of HAVE.
const (
	haveComplete = 1 // the vector ends here
	havePart     = 2 // a part of it does; the next follows when the reader says haveGoOn
	haveGoOn     = 4 // asks for the next part, or behind the end for the whole anew
)

const (
	haveEntry = 32 + 8 + 8 + 8 + 3 // bytes of an entry of HAVE, at least
	wantEntry = 32 + 8 + 1         // bytes of an entry of WANT
	bareHave  = 4 + 1 + 1 + 8      // bytes of a HAVE frame without entries
)

// beginHave starts a HAVE that acknowledges direct messages up to taken;
// endHave, given the length of the buffer before, ends it with the given flags.
func beginHave(b []byte, taken uint64) []byte {
	return binary.BigEndian.AppendUint64(append(beginFrame(b, frameHave), 0), taken)
}

func endHave(b []byte, start int, flags byte) []byte {
	b[start+5] = flags
	return endFrame(b, start)
}

// appendHaveEntry adds what the sender has of an author, and the address where
// they are connected; the zero address if they aren't.
func appendHaveEntry(b []byte, author nodeID, s span, addr netip.AddrPort) []byte {
	b = append(b, author[:]...)
	b = binary.BigEndian.AppendUint64(b, s.first)
	b = binary.BigEndian.AppendUint64(b, s.last)
	return appendAddr(binary.BigEndian.AppendUint64(b, s.mark), addr)
}

// parseHave calls each with every entry of a HAVE, and returns its other fields.
func parseHave(body []byte, each func(author nodeID, s span, addr netip.AddrPort)) (flags byte, taken uint64, err error) {
	f := fields{b: body}
	flags, taken = byte(f.uint(1)), f.uint(8)
	for len(f.b) > 0 {
		id, s, addr := f.id(), span{f.uint(8), f.uint(8), f.uint(8)}, f.addr()
		if addr.Port() == 0 {
			addr = netip.AddrPort{}
		}
		if f.require(s.first <= s.last && (s.first > 0 || s.last == 0)); !f.bad {
			each(id, s, addr)
		}
	}
	return flags, taken, f.err("have")
}

// A want asks for an author's posts.
type want struct {
	from uint64 // number of the first; 0: send no more
	over bool   // if the sender doesn't hold that one, from the first later one on
}

func appendWantEntry(b []byte, author nodeID, w want) []byte {
	b = binary.BigEndian.AppendUint64(append(b, author[:]...), w.from)
	if w.over {
		return append(b, 1)
	}
	return append(b, 0)
}

func parseWant(body []byte, each func(author nodeID, w want)) error {
	f := fields{b: body}
	for len(f.b) > 0 {
		each(f.id(), want{f.uint(8), f.uint(1) == 1})
	}
	return f.err("want")
}

type direct struct {
	number uint64 // 1, 2, 3 … from this sender to this receiver
	time   int64
	text   []byte
}

func appendDirect(b []byte, x direct) []byte {
	start := len(b)
	b = beginFrame(b, frameDirect)
	b = binary.BigEndian.AppendUint64(b, x.number)
	b = binary.BigEndian.AppendUint64(b, uint64(x.time))
	return endFrame(append(b, x.text...), start)
}

func parseDirect(body []byte) (x direct, err error) {
	f := fields{b: body}
	x = direct{f.uint(8), f.time(), f.text()}
	return x, f.err("direct")
}

// A sighting says that somebody saw a node go without a word, or come back.
type sighting struct {
	author nodeID
	kind   byte // kindLost or kindBack
	time   int64
	name   []byte
	addr   netip.AddrPort
}

func appendSeen(b []byte, x sighting) []byte {
	start := len(b)
	b = append(beginFrame(b, frameSeen), x.author[:]...)
	b = binary.BigEndian.AppendUint64(append(b, x.kind), uint64(x.time))
	return endFrame(appendAddr(appendName(b, string(x.name)), x.addr), start)
}

func parseSeen(body []byte) (x sighting, err error) {
	f := fields{b: body}
	x = sighting{f.id(), byte(f.uint(1)), f.time(), bytes.Clone(f.name()), f.addr()} // it may wait, and its frame shall not
	f.require(x.kind == kindLost || x.kind == kindBack)
	return x, f.err("seen")
}

// appendPart adds a piece of the body of a POSTS frame, and whether more follow.
func appendPart(b, piece []byte, more bool) []byte {
	start := len(b)
	b = append(beginFrame(b, framePart), 0)
	if more {
		b[start+5] = 1
	}
	return endFrame(append(b, piece...), start)
}

func parsePart(body []byte) (piece []byte, more bool, err error) {
	f := fields{b: body}
	more = f.uint(1) == 1
	return f.b, more, f.err("part")
}

func appendGot(b []byte, arrived int64) []byte {
	start := len(b)
	return endFrame(binary.BigEndian.AppendUint64(beginFrame(b, frameGot), uint64(arrived)), start)
}

func parseGot(body []byte) (arrived int64, err error) {
	f := fields{b: body}
	return int64(f.uint(8)), f.err("got")
}

func appendBye(b []byte, why byte) []byte {
	return endFrame(append(beginFrame(b, frameBye), why), len(b))
}

func parseBye(body []byte) (byte, error) {
	f := fields{b: body}
	return byte(f.uint(1)), f.err("bye")
}

// A byeError is why the peer ended the connection, or we refused it.
type byeError byte

func (e byeError) Error() string { return fmt.Sprintf("it said goodbye (%d)", byte(e)) }

// ---- the flow of posts

// A flow bounds the bytes of posts under way to a peer, by how long they take to arrive. On a
// fast network the bound grows until it doesn't matter. On a slow path it holds about half a
// second's worth, so that a fresh line doesn't wait long behind a history, and what is only
// slow isn't asked for again. A run of what another said takes the peer longer than the
// network, since it checks the signature, so these are bounded as well. A peer that never says
// what has arrived is not bounded. The zero value is ready. Guarded by node.mu.
type flow struct {
	bounded   bool
	sent      int64 // bytes so far
	arrived   int64 // of these, by the peer's word
	acked     int64 // of these, when the peer last acknowledged a post of ours
	window    int64 // bytes that may be under way; 0: firstWindow
	mark      int64 // bytes sent when the window was used up, which is measured; 0: it wasn't
	markAt    time.Time
	took      time.Duration // for a full window to arrive, the last time
	checks    int           // signatures to check, sent since all of them had last arrived
	checkMark int64         // bytes sent with the last of them
}

const (
	firstWindow = 8 << 10 // bytes: a second at 64 kbit/s
	leastWindow = 4 << 10
	mostWindow  = 8 << 20
	flowFast    = 250 * time.Millisecond // a full window that arrives within it grows
	flowSlow    = 1 * time.Second        // and one that takes longer shrinks
	mostChecks  = 64                     // signatures to check, which takes some 10 ms
)

func (f *flow) limit() int64 {
	if !f.bounded {
		return math.MaxInt64
	}
	return cmp.Or(f.window, firstWindow)
}

// room returns how many bytes may be sent at this moment.
func (f *flow) room() int { return int(f.limit() - (f.sent - f.arrived)) }

// run returns how large a frame of posts may be: at least two fit the window,
// so that the path doesn't run dry. One that may never be read is small.
func (f *flow) run() int {
	if !f.bounded {
		return smallRun
	}
	return int(min(f.limit()/2, maxRun))
}

// isSlow says whether a full window takes long to arrive.
func (f *flow) isSlow(now time.Time) bool {
	return f.took >= flowFast || f.mark > 0 && now.Sub(f.markAt) >= flowFast
}

// send counts size bytes that are sent, with so many signatures to check.
func (f *flow) send(size, checks int, now time.Time) {
	if f.sent += int64(size); f.mark == 0 && f.room() <= 0 {
		f.mark, f.markAt = f.sent, now
	}
	if f.bounded && checks > 0 {
		f.checks, f.checkMark = f.checks+checks, f.sent
	}
}

// ack takes the peer's word on what has arrived, and says whether more may be sent now.
func (f *flow) ack(arrived int64, now time.Time) (opens bool) {
	f.bounded = true
	full, busy := f.room() <= 0, f.checks >= mostChecks
	f.arrived = max(f.arrived, min(arrived, f.sent))
	if f.arrived >= f.checkMark {
		f.checks = 0
	}
	if f.mark > 0 && f.arrived >= f.mark {
		switch f.took = now.Sub(f.markAt); {
		case f.took > flowSlow:
			f.window = max(f.limit()/2, leastWindow)
		case f.took < flowFast:
			f.window = min(2*f.limit(), mostWindow)
		}
		f.mark = 0
	}
	return full && f.room() > 0 || busy && f.checks == 0
}

// ---- the work that peers make

const (
	workShare    = 20                     // one part in so many of our time goes to what peers have us do besides taking posts
	workAtOnce   = 300 * time.Millisecond // of it are done before anybody waits: a large room that meets
	workAnyway   = 2 * time.Millisecond   // of it are done for each peer, and for each host that connects, whatever others make us do
	workSlice    = 256                    // entries of a frame that are taken in one go
	workPerFrame = 5 * time.Microsecond   // about what a frame costs that we didn't want
	workPerByte  = 3 * time.Nanosecond    // and each byte of it
	workPerCheck = 70 * time.Microsecond  // a signature that is checked
	workPerEntry = 2 * time.Microsecond   // each entry of a HAVE or WANT
	workPerClaim = 4 * time.Microsecond   // each claim that has us ask for posts; it is forgiven when they come
	workPerNote  = 20 * time.Microsecond  // a SEEN or DIRECT
	workPerText  = 10 * time.Nanosecond   // a byte of a DIRECT, which is printed, or of posts, which are hashed
	workPerTurn  = 3 * time.Millisecond   // a handshake that somebody else asks for, and what follows from it
	workPerWrite = 50 * time.Microsecond  // a write, however small it is
	longestPause = time.Second            // before a reader looks again whether it may go on
)

// workOf returns about what it costs to read a frame and to do what it asks for.
func workOf(typ byte, size int) time.Duration {
	work := workPerFrame + time.Duration(size)*workPerByte
	switch typ {
	case frameHave:
		work += time.Duration(size/haveEntry) * workPerEntry
	case frameWant:
		work += time.Duration(size/wantEntry) * workPerEntry
	case frameSeen:
		work += workPerNote
	case framePosts:
		work += workPerCheck + time.Duration(size)*workPerText
	case frameDirect, framePart:
		work += workPerNote + time.Duration(size)*workPerText
	}
	return work
}

// A tab is the work that somebody made us do lately.
type tab struct {
	owed time.Duration
	at   time.Time // when owed was last right
}

// add adds work, which is negative if it forgives some, to what is owed. One part in
// share of the time pays it off. It returns how long to wait until free is owed at most.
func (t *tab) add(work time.Duration, share int, free time.Duration, now time.Time) time.Duration {
	t.owed = max(0, max(0, t.owed-now.Sub(t.at)/time.Duration(share))+work)
	t.at = now
	return (t.owed - free) * time.Duration(share)
}

// A workload is the work that all make us do besides taking posts, and who
// connects. As long as it is little nobody waits for it. Beyond that those wait
// who make us do more than an equal part of it. So one peer gets a small part
// of the node, and many together hardly more. Guarded by node.mu.
type workload struct {
	all   tab
	hosts map[netip.Addr]*tab // of handshakes, or of writes
}

// countHandshake says whether a handshake that somebody of that host asks for may begin. If
// it may, it is counted.
func (w *workload) countHandshake(host netip.Addr, now time.Time) bool {
	begins := w.count(host, 0, now) == 0
	if begins {
		w.count(host, workPerTurn, now)
	}
	return begins
}

// count adds work to the tab of a host, and returns for how long that is to wait.
func (w *workload) count(host netip.Addr, work time.Duration, now time.Time) time.Duration {
	if w.hosts == nil {
		w.hosts = map[netip.Addr]*tab{}
	}
	t := w.hosts[host]
	if t == nil {
		maps.DeleteFunc(w.hosts, func(_ netip.Addr, t *tab) bool { return now.Sub(t.at) > time.Minute })
		t = new(tab)
		w.hosts[host] = t
	}
	return w.add(t, work, len(w.hosts), now)
}

// add adds work to the tab of one of so many, and returns for how long that one
// is to wait before it is asked again; 0: it needn't.
func (w *workload) add(t *tab, work time.Duration, many int, now time.Time) time.Duration {
	all := w.all.add(work, workShare, workAtOnce, now)
	own := t.add(work, workShare*max(1, many), workAnyway, now)
	return max(0, min(all, own, longestPause))
}

// ---- posts

// A post is a sealed post taken apart. Its slices lie in sealed if parsePost made it.
type post struct {
	number uint64
	time   int64 // µs since 1970
	prev   link
	kind   byte
	addr   netip.AddrPort
	name   []byte
	text   []byte

	sealed []byte
	digest link // what the signature signs
	link   link

	reached *netip.AddrPort // where its author was when it came, if a history file tells
}

var postLabel = []byte("p2pchat post 1")

// appendContent lays out a post without its signature, or a note.
func appendContent(b []byte, p post) []byte {
	b = binary.BigEndian.AppendUint64(b, p.number)
	b = binary.BigEndian.AppendUint64(b, uint64(p.time))
	b = append(append(b, p.prev[:]...), p.kind)
	b = appendName(appendAddr(b, p.addr), string(p.name))
	return append(b, p.text...)
}

func parseContent(b []byte) (p post, err error) {
	f := fields{b: b}
	p.number, p.time, p.prev = f.uint(8), f.time(), link(f.id())
	p.kind, p.addr, p.name, p.text = byte(f.uint(1)), f.addr(), f.name(), f.text()
	return p, f.err("post")
}

// sealPost lays out and signs p, and returns it with its sealed form.
func sealPost(key ed25519.PrivateKey, author nodeID, p post) post {
	b := make([]byte, 0, 8+8+32+1+19+1+len(p.name)+len(p.text)+signatureSize)
	b = appendContent(b, p)
	p.digest = digestOf(author, b)
	p.sealed = append(b, ed25519.Sign(key, p.digest[:])...)
	p.link = linkOf(p.digest, p.signature())
	return p
}

// parsePost takes a sealed post apart, with digest and link. verify checks its signature.
func parsePost(author nodeID, sealed []byte) (p post, err error) {
	n := max(0, len(sealed)-signatureSize) // too few bytes are refused as none are
	if p, err = parseContent(sealed[:n:n]); err != nil {
		return p, err
	}
	if p.number == 0 || isNote(p.kind) || p.kind == kindJoin && p.number > 1 {
		return p, fmt.Errorf("post: number %d of kind %d", p.number, p.kind)
	}
	if count := bytes.Count(p.text, []byte{'\n'}) + 1; p.kind == kindLines && isCrowded(count, len(p.name), len(p.text)) {
		return p, fmt.Errorf("post: %d lines in %d bytes under a name of %d", count, len(p.text), len(p.name))
	}
	p.sealed = sealed
	p.digest = digestOf(author, sealed[:n])
	p.link = linkOf(p.digest, p.signature())
	return p, nil
}

// isCrowded says whether a post has too many lines for the bytes of its name and
// its text. Each line is printed with a time, a name and an address before it, so
// a few bytes of text could fill a screen, and hold up what others say.
func isCrowded(lines, name, text int) bool {
	const ahead, around, most = 48, 128, 16 // bytes printed before a line; bytes of a post besides; times
	return lines*(ahead+name) > most*(around+name+text)
}

func (p *post) signature() []byte { return p.sealed[len(p.sealed)-signatureSize:] }

// verify says whether author signed p, and with it all posts before, as they are chained.
func (p *post) verify(author nodeID) bool {
	return ed25519.Verify(author[:], p.digest[:], p.signature())
}

// proven returns how many of n consecutive posts are proven: those up to the last
// one that is signed. It looks for that one among the last maxUnsigned.
func proven(n int, isSigned func(i int) bool) int {
	for least := n - maxUnsigned; n > max(0, least); n-- {
		if isSigned(n - 1) {
			return n
		}
	}
	return 0
}

func digestOf(author nodeID, content []byte) (d link) {
	h := sha256.New()
	h.Write(postLabel)
	h.Write(author[:])
	h.Write(content)
	h.Sum(d[:0])
	return d
}

func linkOf(digest link, signature []byte) link {
	var b [len(digest) + signatureSize]byte
	copy(b[copy(b[:], digest[:]):], signature)
	return sha256.Sum256(b[:])
}

func (l link) mark() uint64 { return binary.BigEndian.Uint64(l[:]) }

// appendRunEntry adds a sealed post to the body of a POSTS frame.
func appendRunEntry(b, sealed []byte) []byte { return append(appendRunHead(b, sealed), sealed...) }

// appendRunHead adds the length that stands before sealed there.
func appendRunHead(b, sealed []byte) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(len(sealed)))
}

// parseRun takes the posts of a POSTS frame apart and checks that each follows
// on the one before. It checks no signature: verify does, for the last.
func parseRun(body []byte) (author nodeID, run []post, err error) {
	f := fields{b: body}
	author = f.id()
	for len(f.b) > 0 || len(run) == 0 {
		sealed := f.bytes(int(f.uint(4)))
		if f.bad {
			return author, nil, f.err("posts")
		}
		p, err := parsePost(author, sealed)
		if err != nil {
			return author, nil, err
		}
		if n := len(run); n > 0 && !follows(&run[n-1], &p) {
			return author, nil, fmt.Errorf("post %d does not follow %d", p.number, run[n-1].number)
		}
		run = append(run, p)
	}
	return author, run, nil
}

// follows says whether b can be what the author of a said next. Nothing follows a leave.
func follows(a, b *post) bool {
	return b.number == a.number+1 && b.prev == a.link && b.time > a.time && a.kind != kindLeave
}

// ---- the history file

const (
	fileHeader = "p2pchat history 1\n"
	recordHead = 12 // marker, length, check
	recordPost = 1
	recordNote = 2
	recordRoom = 3
	recordMet  = 3 // is added to the type of a post or a note whose author had been reached
)

var (
	recordMarker = []byte{0xf5, 'p', '2', 'c'}
	markerEscape = []byte{recordMarker[0], 0}
)

type record struct {
	typ     byte
	author  nodeID
	reached *netip.AddrPort // of a post or a note: where its author was then; nil: nobody had reached it
	body    []byte
}

func appendRecord(b []byte, x record) []byte {
	var place []byte
	if x.reached != nil && x.reached.IsValid() {
		x.typ += recordMet
		place = appendName(nil, x.reached.String())
	}
	head, start := len(b), len(b)+recordHead
	b = append(append(b, recordMarker...), 0, 0, 0, 0, 0, 0, 0, 0, x.typ)
	b = append(append(append(b, x.author[:]...), place...), x.body...)
	b = append(b[:start], bytes.ReplaceAll(b[start:], recordMarker[:1], markerEscape)...)
	binary.BigEndian.PutUint32(b[head+4:], uint32(len(b)-start))
	binary.BigEndian.PutUint32(b[head+8:], crc32.Checksum(b[start:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// parseRecord parses the record at the beginning of b, and returns its size. It
// fails if the record is damaged, or b ends before it does.
func parseRecord(b []byte) (x record, size int, err error) {
	f := fields{b: b}
	marker, n, check := f.bytes(len(recordMarker)), int(f.uint(4)), uint32(f.uint(4))
	f.b = f.bytes(n)
	if !bytes.Equal(marker, recordMarker) || crc32.Checksum(f.b, crc32.MakeTable(crc32.Castagnoli)) != check {
		return x, 0, errors.New("record: damaged")
	}
	f.b = bytes.ReplaceAll(f.b, markerEscape, recordMarker[:1])
	x.typ, x.author = byte(f.uint(1)), f.id()
	if x.typ == recordPost+recordMet || x.typ == recordNote+recordMet {
		x.typ -= recordMet
		addr, err := parsePlace(f.name())
		if err != nil {
			return x, 0, fmt.Errorf("record: %w", err)
		}
		x.reached = &addr
	}
	x.body = f.b
	return x, recordHead + n, f.err("record")
}

// readRecords calls each with the records of r, a history file. Where a record is
// damaged, or each refuses it, it goes on at the next marker. It returns how many
// bytes it has passed over, and errOtherRoom if each does. A file is a history if
// it begins like one, or if any record in its first maxFrame bytes is good.
func readRecords(r io.Reader, each func(record) error) (damaged int64, err error) {
	b := bufio.NewReaderSize(r, recordHead+maxFrame)
	head, _ := b.Peek(len(fileHeader))
	ours := strings.HasPrefix(fileHeader, string(head)) // a file that is empty or was cut short is ours as well
	if ours {
		b.Discard(len(head))
	}
	for {
		next, err := b.Peek(recordHead)
		if len(next) == recordHead {
			next, err = b.Peek(recordHead + int(min(binary.BigEndian.Uint32(next[4:]), maxFrame))) // if it is damaged, any number
		}
		switch {
		case err != nil && err != io.EOF:
			return damaged, err
		case !ours && (len(next) == 0 || damaged > maxFrame):
			return damaged, errors.New("not a p2pchat history")
		case len(next) == 0:
			return damaged, nil
		}
		x, n, err := parseRecord(next)
		if err == nil {
			err = each(x)
		}
		switch {
		case err == nil:
			ours = true
		case err == errOtherRoom:
			return damaged, err
		default: // go on at the next marker, or where the beginning of one stands
			rest, _ := b.Peek(b.Buffered())
			if n = bytes.Index(rest[1:], recordMarker) + 1; n == 0 {
				n = max(1, len(rest)-len(recordMarker)+1)
			}
			if string(rest[:n]) != fileHeader { // which stands there twice if two processes began the file
				damaged += int64(n)
			}
		}
		b.Discard(n)
	}
}

// ---- lines

// verbs are what stands behind the author in a line, by its kind. Others aren't shown.
var verbs = [...]string{
	kindJoin: " joined", kindLines: ": ", kindRename: " is now ", kindLeave: " left", kindLost: " lost", kindBack: " is back",
	kindDirectFrom: " -> me: ", kindDirectTo: " -> ", kindMoved: " is now at ",
}

const stampLayout = "2006-01-02 15:04:05"

// A liner turns events into lines of text. It is used by one goroutine.
type liner struct {
	self    nodeID
	port    uint16                       // of the room; not shown
	reached func(nodeID) *netip.AddrPort // where we last reached an author; nil if we never did

	second int64 // to which stamp belongs, s since 1970
	stamp  []byte
}

// appendStamp appends the local time of t (µs since 1970), and a space. Most lines are of
// the second of the line before, and to format a time takes 0.3 µs.
func (l *liner) appendStamp(b []byte, t int64) []byte {
	if second := t / 1e6; second != l.second || l.stamp == nil {
		l.second = second
		l.stamp = append(time.Unix(second, 0).AppendFormat(l.stamp[:0], stampLayout), ' ')
	}
	return append(b, l.stamp...)
}

// appendEvent appends the lines of e, each with its line feed; none if e isn't shown.
func (l *liner) appendEvent(b []byte, e *event) []byte {
	if e.feed == nil {
		return append(append(append(l.appendStamp(b, e.time), "* "...), e.sealed...), '\n')
	}
	if !e.isShown() {
		return b
	}
	p := e.content()
	start := len(b)
	b = l.appendStamp(b, p.time)
	if p.kind != kindLines && p.kind != kindDirectFrom && p.kind != kindDirectTo {
		b = append(b, "* "...)
	}
	b = append(b, cleanName(p.name)...)
	if e.feed.id == l.self || p.kind == kindDirectTo {
		b = append(b, " (me)"...)
	} else {
		b = l.appendPlace(b, e, p.addr)
	}
	b = append(b, verbs[p.kind]...)
	switch p.kind {
	case kindLines: // those that are not empty
		prefix := b[start:] // the first line is laid out over it, and begins with the same bytes
		b = b[:start]
		for line := range bytes.SplitSeq(p.text, []byte{'\n'}) {
			if len(line) > 0 {
				b = append(appendClean(append(b, prefix...), line), '\n')
			}
		}
		return b
	case kindRename:
		b = append(b, cleanName(p.text)...)
	case kindDirectFrom:
		b = appendClean(b, p.text)
	case kindDirectTo:
		name, text, _ := bytes.Cut(p.text, []byte{'\n'})
		b = l.appendPlace(append(b, cleanName(name)...), e, p.addr)
		b = appendClean(append(b, ": "...), text)
	case kindMoved:
		addr, _ := parsePlace(p.text)
		b = l.appendAddr(b, addr)
	}
	return append(b, '\n')
}

// appendPlace appends @ and where the author of e was when e came. named is the address
// that e holds. A question mark says that we have never reached the author there.
func (l *liner) appendPlace(b []byte, e *event, named netip.AddrPort) []byte {
	b = append(b, '@')
	if e.reached != nil {
		return l.appendAddr(b, *e.reached)
	}
	if !named.IsValid() {
		return append(b, '?')
	}
	if last := l.reached(e.feed.id); last != nil && netip.AddrPortFrom(last.Addr().WithZone(""), last.Port()) == named {
		return l.appendAddr(b, *last) // a zone is no part of what it names
	}
	return append(l.appendAddr(b, named), '?')
}

// appendAddr appends the address, with the port if it isn't the room's; of none a "?".
func (l *liner) appendAddr(b []byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return append(b, '?')
	}
	if a.Port() == l.port {
		return a.Addr().AppendTo(b)
	}
	return a.AppendTo(b)
}

func (e *event) isShown() bool { return int(e.kind) < len(verbs) && verbs[e.kind] != "" }

// lines says how many lines e is shown as.
func (e *event) lines() (n int) {
	switch {
	case !e.isShown():
		return 0
	case e.kind != kindLines:
		return 1
	}
	for line := range bytes.SplitSeq(e.content().text, []byte{'\n'}) {
		if len(line) > 0 {
			n++
		}
	}
	return n
}

// asHistory returns events in the frame that says what they are.
func asHistory(events batch, from string) batch {
	lines := 0
	for _, e := range events {
		lines += e.lines()
	}
	return slices.Concat(answer(fmt.Sprintf("history: %d events%s", lines, from)), events, answer("end of history"))
}

// ---- cleaning

const (
	maxName    = 32 // characters
	maxMarks   = 8  // combining marks, or tags of an emoji, in a row that a line may carry
	forbidden  = "@:/*()>"
	directions = "\u200e\u200f\u061c" // marks of direction: they say how the neutral characters beside them are ordered
)

// appendClean appends text, one line, with a visible stand-in for whatever
// could break, forge or hide part of a line: controls but TAB, separators,
// bidi overrides and other invisible characters, bytes that are not UTF-8, and
// combining marks beyond a few. Emoji sequences stay whole, and so do the
// joiners of scripts that use them, and marks of direction in right-to-left texts.
func appendClean(b, text []byte) []byte {
	if isPlain(text) {
		return append(b, text...)
	}
	if bytes.ContainsFunc(text, isRightToLeft) {
		return appendVisible(b, text, directions)
	}
	return appendVisible(b, text, "")
}

// appendVisible is appendClean, with the marks of direction that are to stay.
func appendVisible(b, text []byte, stay string) []byte {
	start := len(b)
	marks := 0 // in a row: marks, and what shows as nothing
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		raw := text[:size]
		text = text[size:]
		next, _ := utf8.DecodeRune(text)
		hidden := isHidden(r)
		if marks++; !hidden && !unicode.Is(unicode.M, r) {
			marks = 0
		}
		if hidden {
			joins := isJoint(b[start:], r, next) || unicode.Is(unicode.Join_Control, r) && isShaped(b[start:])
			hidden = !joins && !strings.ContainsRune(stay, r)
		}
		switch {
		case r == utf8.RuneError:
			b = append(b, "\uFFFD"...)
		case r < ' ' && r != '\t' || r == 0x7f:
			b = utf8.AppendRune(b, 0x2400+min(r, 0x21)) // the control pictures, of which the last is DEL's
		case hidden || marks > maxMarks:
			b = fmt.Appendf(b, "<U+%04X>", r)
		default:
			b = append(b, raw...)
		}
	}
	return b
}

// isPlain says whether text is printable ASCII throughout. It looks at eight bytes at a
// time, as every line passes here: a tenth of what printing costs (BenchmarkClean).
func isPlain(text []byte) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for len(text) >= 8 {
		x := binary.LittleEndian.Uint64(text)
		// The top bit of a byte of x says that it isn't ASCII, that of x+1 that
		// it is DEL, and that of x+0x60 is missing if it is below a space.
		if (x|x+ones|^(x+0x60*ones))&tops != 0 {
			return false
		}
		text = text[8:]
	}
	for _, c := range text {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// isHidden says whether r shows as nothing, or changes how others show.
func isHidden(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point) && r != '\t'
}

// isJoint says whether r, behind text, is part of an emoji: a joiner between two,
// or a tag behind the black flag (Unicode Technical Standard 51).
func isJoint(text []byte, r, next rune) bool {
	const blackFlag = 0x1F3F4
	before, _ := utf8.DecodeLastRune(text)
	if isTag(r) {
		return before == blackFlag || isTag(before)
	}
	return r == '\u200d' && isEmoji(before) && isEmoji(next)
}

// isShaped says whether text ends with a letter, and perhaps marks, of a script
// whose letters look otherwise beside a joiner, as in Persian and Hindi.
func isShaped(text []byte) bool {
	r, _ := utf8.DecodeLastRune(bytes.TrimRightFunc(text, unicode.IsMark))
	return unicode.IsLetter(r) && !unicode.In(r, unicode.Latin, unicode.Greek, unicode.Cyrillic, unicode.Han,
		unicode.Hiragana, unicode.Katakana, unicode.Hangul, unicode.Common)
}

// isRightToLeft says whether r is a letter of a script that is written from
// right to left; these have blocks of their own (Unicode Standard Annex 9).
func isRightToLeft(r rune) bool {
	return unicode.IsLetter(r) && (r >= 0x0590 && r <= 0x08FF || r >= 0xFB1D && r <= 0xFDFF || r >= 0xFE70 && r <= 0xFEFF ||
		r >= 0x10800 && r <= 0x10FFF || r >= 0x1E800 && r <= 0x1EFFF)
}

func isTag(r rune) bool { return r >= 0xE0020 && r <= 0xE007F }

// isEmoji says whether r can stand beside the joiner of an emoji.
func isEmoji(r rune) bool {
	return unicode.Is(unicode.So, r) && r != utf8.RuneError || r == '\ufe0f' || r >= 0x1F3FB && r <= 0x1F3FF
}

// validName says what is wrong with a name that somebody wants to bear.
func validName(name string) error {
	n := utf8.RuneCountInString(name)
	switch {
	case n == 0:
		return errors.New("a name needs at least one character")
	case n > maxName:
		return fmt.Errorf("a name of %d characters is too long; use at most %d", n, maxName)
	case strings.ContainsAny(name, forbidden):
		return fmt.Errorf("a name can't hold any of %s", strings.Join(strings.Split(forbidden, ""), " "))
	case strings.Contains(name, "  ") || strings.TrimSpace(name) != name:
		return errors.New("a name can't begin or end with a space, or hold two in a row")
	case looksMoved(name):
		return errors.New("a name can't be \"at\" and an address, which would read as a move to there")
	case strings.ContainsFunc(name, func(r rune) bool { return r != ' ' && unicode.IsSpace(r) }),
		!isPlain([]byte(name)) && string(appendVisible(nil, []byte(name), "")) != name:
		return errors.New("a name can't hold control or invisible characters")
	}
	return nil
}

// looksMoved says whether one who is now called name would seem to be at an address.
func looksMoved(name string) bool {
	place, found := strings.CutPrefix(name, "at ")
	if !found {
		return false
	}
	_, err := netip.ParseAddr(place)
	return err == nil
}

// cleanName returns the form of a name that is safe to show.
func cleanName(name []byte) string {
	s := string(name[:min(len(name), maxNameBytes)]) // as a rename may say a text of any length
	if validName(s) == nil {
		return s
	}
	s = strings.Map(func(r rune) rune {
		if strings.ContainsRune(forbidden, r) || unicode.IsSpace(r) {
			return '_'
		}
		return r
	}, string(appendVisible(nil, []byte(s), "")))
	if long := []rune(s); len(long) > maxName {
		s = strings.TrimRight(string(long[:maxName]), "\u200d") // a joiner that joins nothing would be hidden
	}
	return cmp.Or(s, "_")
}

// validOwnName says what is wrong with a name that the user wants to bear. One
// whose accents are characters of their own looks like another name, in which
// letter and accent are one character, and is refused.
func validOwnName(name string) error {
	for c, rest := cutCharacter(name); c != ""; c, rest = cutCharacter(rest) {
		if r, n := utf8.DecodeRuneInString(c); n < len(c) && unicode.In(r, alphabets...) {
			return fmt.Errorf("the accent of %s is a character of its own; write the two as one character, if there is such a one, or leave the accent out", c)
		}
	}
	return validName(name)
}

// ---- names that look alike

// alphabets are the scripts of which Unicode has most letters with their accents
// as one character.
var alphabets = []*unicode.RangeTable{unicode.Latin, unicode.Greek, unicode.Cyrillic}

// fold returns a form of name that is the same for all names which differ only
// in capitals, in the width of ASCII and of white space, and in what can't be
// seen. Its syllables of Hangul are spelled out (The Unicode Standard, 3.12).
func fold(name string) string {
	b := []rune{0} // so that there is always one before
	for _, r := range name {
		before := b[len(b)-1]
		if r >= 0xFF01 && r <= 0xFF5E { // ASCII of double width
			r -= 0xFF01 - '!'
		}
		switch syllable := r - 0xAC00; {
		case unicode.IsSpace(r):
			if before != ' ' {
				b = append(b, ' ')
			}
		case isHidden(r) || r == '\u0307' && before == 'i': // the dot that the small letter has anyway
		case r == '\u00df' || r == '\u1e9e': // the sharp s, and its capital
			b = append(b, 's', 's')
		case syllable >= 0 && syllable < 19*21*28:
			b = append(b, 0x1100+syllable/(21*28), 0x1161+syllable/28%21)
			if final := syllable % 28; final > 0 {
				b = append(b, 0x11A7+final)
			}
		case unicode.IsMark(r):
			b = append(b, r)
		default:
			b = append(b, unicode.ToLower(unicode.ToUpper(r)))
		}
	}
	return string(b[1:])
}

// isAlike says whether two names differ in nothing but what fold takes away and
// the way in which accents are composed.
func isAlike(a, b string) bool {
	rest, ok := cutAlike(fold(a), fold(b))
	return ok && rest == ""
}

// cutAlike returns s without name, if s begins with it but for the way in which
// accents are composed. Both are as fold returns them.
func cutAlike(s, name string) (rest string, ok bool) {
	for name != "" {
		var a, b string
		a, s = cutCharacter(s)
		b, name = cutCharacter(name)
		if a != b && !mayBeSame(a, b) {
			return s, false
		}
	}
	return s, true
}

// cutCharacter cuts the first character off s, with the combining marks behind it.
func cutCharacter(s string) (c, rest string) {
	_, n := utf8.DecodeRuneInString(s)
	rest = strings.TrimLeftFunc(s[n:], unicode.IsMark)
	return s[:len(s)-len(rest)], rest
}

// mayBeSame says whether two characters, with the marks behind them, can be one
// that is composed in two ways: é is one character, or e and a mark. Only
// a table could tell which marks make which character; so any character counts
// that can have such marks within.
func mayBeSame(a, b string) bool {
	x, y := []rune(a), []rune(b)
	if len(x) > len(y) {
		x, y = y, x
	}
	if len(x) == 0 || !shareScript(x[0], y[0]) {
		return false
	}
	lacks := func(r rune) bool { return !slices.Contains(y[1:], r) }
	switch {
	case unicode.In(x[0], alphabets...):
		return len(y) > 1 && len(a) > 1 && len(b) > 1 // ASCII has no accents
	case x[0] == y[0]: // marks in another order, or one that stands for two
		return slices.ContainsFunc(x[1:], lacks) == (len(x) < len(y))
	}
	return len(x) < len(y) && slices.ContainsFunc(y[1:], func(r rune) bool { return canBeWithin(y[0], r) })
}

// shareScript says whether there is a script that has both.
func shareScript(x, y rune) bool {
	for _, script := range unicode.Scripts {
		if unicode.Is(script, x) {
			return unicode.Is(script, y)
		}
	}
	return false
}

// canBeWithin says whether there can be a character that has the mark r on
// letter within. The scripts of India have one layout, where the fifth of every 128
// is the letter a, of which vowel signs make other letters.
func canBeWithin(letter, r rune) bool {
	isIndianA := letter >= 0x900 && letter < 0xE00 && letter&0x7F == 0x05
	return isIndianA || unicode.Is(unicode.Diacritic, r) || r >= 0x653 && r <= 0x655 // of Arabic: maddah and hamza
}
