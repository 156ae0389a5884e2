package main

// What is typed, and what the command line says: each line of input does
// exactly one thing, and what stands in a table or among the arguments is
// taken within its bounds or refused. What the whole program does with its
// input is for script_test.go.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
	"unicode"
)

// atDesk returns an app with nobody at its screen, in a room of five of whom
// two are namesakes, with a table that names one more.
func atDesk(verbatim bool) *app {
	s := newScribe(8, "Alex")
	h := newHistory(s.key, 1<<20, time.Now, func() netip.AddrPort { return s.addr })
	n := newNode(s.key, h, newRoomKey(""), s.name, 7700, 7700)
	for i, m := range []struct{ name, addr string }{
		{"Tim", "192.168.0.7:7700"}, {"Tim B", "192.168.0.8:7700"}, {"Ann", "192.168.0.9:7700"}, {"Ann", "192.168.0.9:40123"},
	} {
		id, addr := newScribe(i+1, "").id, netip.MustParseAddrPort(m.addr)
		n.moveLocked(n.contactLocked(id), up, &conn{n: n, transport: transport{peer: id, addr: addr}})
		h.reached(id, addr, m.name)
	}
	n.targets = []*target{
		{alias: "Tim B C", route: route{addr: netip.MustParseAddrPort("192.168.0.10:7700")}},
		{route: route{addr: netip.MustParseAddrPort("192.168.0.11:7700")}}, // by -peer
	}
	return &app{cfg: &config{verbatim: verbatim, targets: n.targets}, n: n, h: h, input: fromTerminal}
}

var typedLines = []string{
	"hi", "", " /exit", "/exit", "exit", "quit ", "//etc/hosts", "@@home", "/", "//", "@", "@@", "/nonsense", "/members", "/members x",
	"/history", "/history 3", "/history -1", "/history 99999999999999999999", "/name Bo", "/name a\tb", "/hooray", "/help", "/help  ", "/exit ", "@Tim hello",
	"@Tim B hello", "@Tim B C hello", "@Tim", "@Timothy hi", "@Ann hi", "@Ann@192.168.0.9:40123 hi", "@192.168.0.7 hi",
	"@192.168.0.9:7700 hi", " @tim x", " @Tim\tx", " @Tim, x", " @Timo", "\u00a0@192.168.0.9", " @192.168.0.9: x", " @192.168.0.99", "TIM B/x", "\t@tim b", "Tim/hello", "Tim B/", "Tim B C/x", "Tim@192.168.0.7/x", "either/or", "\t/usr/x", "\xff\xfe", "@Tim \xff", "https://example.org",
}

// FuzzLine: whatever the input holds, its lines come as they are, and each
// does exactly one thing, the one that the contract says. A byte f8 stands for
// 40,000 letters.
func FuzzLine(f *testing.F) {
	for _, s := range typedLines {
		f.Add([]byte(s), false)
	}
	for _, s := range []string{"/exit", "a\nb", "a\r\nb\r", "\r\n\n\r\r\n", "\xf8\n", "\xf8\xf8\n", "x\xf8\xf8\xf8\xf8\r\nnext\n", "\xf8x\xf8\r\n"} {
		f.Add([]byte(s), true)
	}
	voice := newVoice(io.Discard)
	f.Fuzz(func(t *testing.T, input []byte, verbatim bool) {
		if bytes.Count(input, []byte{0xf8})+bytes.Count(input, []byte{'\n'}) > 50 {
			return
		}
		input = bytes.ReplaceAll(input, []byte{0xf8}, bytes.Repeat([]byte{'x'}, 40_000))
		r := bufio.NewReaderSize(bytes.NewReader(input), 2*maxLine)
		for want := range bytes.Lines(input) {
			if s, ok := bytes.CutSuffix(want, []byte{'\n'}); ok {
				want = bytes.TrimSuffix(s, []byte{'\r'})
			}
			e, err := readLine(r)
			got, length := e.line, e.length
			switch {
			case err != nil && err != io.EOF:
				t.Fatal(err)
			case len(want) > maxLine && (got != nil || length <= maxLine):
				t.Fatalf("a line of %d bytes comes as one of %d", len(want), length)
			case len(want) <= maxLine && (!bytes.Equal(got, want) || length != len(want)):
				t.Fatalf("the line %.100q comes as %.100q of %d bytes", want, got, length)
			}
			a := atDesk(verbatim)
			a.v = voice
			checkTyped(t, a, got, length)
		}
		if e, err := readLine(r); err != io.EOF || e.length != 0 {
			t.Fatalf("after the end comes %q, %v", e.line, err)
		}
	})
}

// checkTyped tells of a line that does nothing, or more than one thing.
func checkTyped(t *testing.T, a *app, line []byte, length int) {
	typed := string(line)
	text, ok := a.message(line)
	if want, said := saysToAll(typed, a.cfg.verbatim); ok != said || ok && string(text) != want {
		t.Fatalf("%.100q (verbatim: %v) says %.100q, %v; want %.100q, %v", typed, a.cfg.verbatim, text, ok, want, said)
	}
	if ok || length == 0 {
		return
	}
	before := a.h.end.seq
	staying := a.command(context.Background(), line, length)
	word, rest, _ := strings.Cut(typed, " ")
	leaves := slices.Contains([]string{"/exit", "/quit", "exit", "quit"}, word) && strings.TrimSpace(rest) == ""
	if staying == leaves {
		t.Errorf("%.100q leaves: %v", typed, !staying)
	}
	events := int(a.h.end.seq - before)
	done := int(a.refused.Load()) + len(a.h.queue) + events
	if leaves {
		done++
	}
	if done != 1 {
		t.Errorf("%.100q: %d refusals, %d answers, %d events", typed, a.refused.Load(), len(a.h.queue), events)
	}
}

// saysToAll is what the contract calls a message to everyone.
func saysToAll(line string, verbatim bool) (text string, ok bool) {
	slash := strings.Contains(line, "/")
	switch {
	case line == "":
		return "", false
	case verbatim:
		return line, true
	case strings.HasPrefix(line, "//"), strings.HasPrefix(line, "@@"):
		return line[1:], true
	case line[0] == '/', line[0] == '@', line == "exit", line == "quit":
		return "", false
	}
	for _, name := range []string{"Tim", "Tim B", "Tim B C", "Ann"} {
		if slash && strings.EqualFold(visible(whoIn(line)), name) {
			return "", false
		}
	}
	bare := visible(strings.TrimLeftFunc(line, isBlank))
	return line, !regexp.MustCompile(`^@(?i:tim|tim b|tim b c|ann)(?:[^\pL\pM\pN]|$)`).MatchString(bare) &&
		!regexp.MustCompile(`^@192\.168\.0\.(?:[789]|10)(?:[^\pL\pM\pN]|$)`).MatchString(bare)
}

// visible returns s without what can't be seen, and with one space for several, none
// of which makes another name of a name.
func visible(s string) string {
	s = strings.Map(func(r rune) rune {
		if isHidden(r) && !unicode.IsSpace(r) {
			return -1
		}
		return r
	}, s)
	return regexp.MustCompile(`[\s\pZ\x85]+`).ReplaceAllString(s, " ")
}

func TestPrivateLineStaysPrivateHoweverManyNamesThereWere(t *testing.T) {
	t.Parallel()
	h := emptyHistory(ample, time.Now)
	x, tim := newScribe(1, "X"), newScribe(2, "Tim")
	for i := range maxNames + 1 {
		h.add(x.id, []post{x.scrawls(kindRename, scribeTime+int64(i), fmt.Sprint("X", i))}, true, false)
	}
	h.reached(tim.id, tim.addr, "Tim")
	a := &app{cfg: &config{}, h: h}
	if _, toAll := a.message([]byte("Tim/the key is under the mat")); toAll {
		t.Error("Tim/text is a message to everybody, though Tim is here")
	}
}

// FuzzWho: the longest name or address that fits wins, and whoever bears it is
// a receiver.
func FuzzWho(f *testing.F) {
	for _, s := range typedLines {
		f.Add(s)
	}
	a := atDesk(false)
	bearers := map[string][]string{"Tim B C": nil}
	for _, m := range a.n.members()[:4] { // the fifth is not here
		ip, all := m.addr.Addr().String(), m.addr.String()
		for _, form := range []string{m.name, m.name + "@" + ip, m.name + "@" + all, ip, all} {
			bearers[form] = append(bearers[form], all)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		to, who, text, known := whoOf(s, a.n.members())
		rest, at := strings.CutPrefix(s, "@")
		if !at {
			return
		}
		longest, found := "", false
		for form := range bearers {
			if (rest == form || strings.HasPrefix(rest, form+" ")) && len(form) >= len(longest) {
				longest, found = form, true
			}
		}
		if found != known {
			t.Fatalf("%q is for somebody known: %v, want %v", s, known, found)
		}
		if !found {
			if len(to) > 0 {
				t.Fatalf("%q goes to %+v", s, to)
			}
			return
		}
		var got []string
		for _, m := range to {
			got = append(got, m.addr.String())
		}
		if want := bearers[longest]; !slices.Equal(got, want) || who != longest {
			t.Errorf("%q goes to %q as %q, want %q as %q", s, got, who, want, longest)
		}
		if want := strings.TrimPrefix(rest[len(longest):], " "); text != want {
			t.Errorf("%q says %q, want %q", s, text, want)
		}
	})
}

func FuzzParsePeersFile(f *testing.F) {
	f.Add("Tim 192.168.0.7\nTim B 192.168.0.8:7701 \n# nobody\n\n")
	f.Add("Ann\tfe80::1%eth0\r\n")
	f.Add("Tim\n")
	f.Add("Tim 192.168.0.7:0\n")
	f.Add("a\xffb 1.2.3.4")
	f.Add("# " + strings.Repeat("x", 70_000))
	f.Fuzz(func(t *testing.T, content string) {
		table, err := parsePeersFile(content, 7700)
		if err != nil {
			if len(table) > 0 {
				t.Errorf("%q: %v, but a table of %d", content, err, len(table))
			}
			return
		}
		var b strings.Builder
		for _, x := range table {
			if validName(x.alias) != nil || !x.addr.IsValid() || x.addr.Port() == 0 {
				t.Errorf("%q names %q at %v", content, x.alias, x.addr)
			}
			fmt.Fprintf(&b, "%s %v\n", x.alias, x.addr)
		}
		if len(table) > strings.Count(content, "\n")+1 {
			t.Errorf("%q has %d nodes", content, len(table))
		}
		again, err := parsePeersFile(b.String(), 1)
		if err != nil || !reflect.DeepEqual(again, table) {
			t.Errorf("%q is written as %q, and read as %v, %v", content, b.String(), again, err)
		}
	})
}

// FuzzParseArgs: NUL separates the arguments. What is accepted is within its
// bounds; what is not is a line.
func FuzzParseArgs(f *testing.F) {
	for _, s := range []string{"Alex", "-port\x007701\x00Alex", "Alex\x00-bind\x00127.0.0.1\x00-keep=64KiB", "-wait\x00-1s\x00A", "-peer\x00[::1]:7\x00A",
		"-keep\x00" + "9999999999GiB\x00A", "-port=0\x00A", "-h", "-version", "--", "-bind\x00::1\x00A", "A\x00B", "-x\n\x00A"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "secret") || strings.Contains(line, "peers") {
			return // these read files
		}
		cfg, err := parseArgs(strings.Split(line, "\x00"), io.Discard)
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		if err != nil {
			if _, ok := errors.AsType[usageError](err); !ok {
				t.Errorf("%q: %v is no mistake of the user", line, err)
			}
			return
		}
		if validName(cfg.name) != nil || cfg.port == 0 || cfg.keep < smallestKeep || cfg.keep > 1<<50 || cfg.wait < 0 || cfg.idle < 0 {
			t.Errorf("%q is taken as %+v", line, cfg)
		}
		for _, x := range cfg.targets {
			if !x.addr.IsValid() || x.addr.Port() == 0 {
				t.Errorf("%q names the address %v", line, x.addr)
			}
		}
	})
}

// TestAddressesAreReadInEveryForm: of both families, with and without a port.
func TestAddressesAreReadInEveryForm(t *testing.T) {
	t.Parallel()
	for written, want := range map[string]string{
		"192.168.0.7":             "192.168.0.7:7700",
		"192.168.0.7:9":           "192.168.0.7:9",
		"::ffff:192.168.0.7":      "192.168.0.7:7700",
		"[::ffff:192.168.0.7]:9":  "192.168.0.7:9",
		"fd00::7":                 "[fd00::7]:7700",
		"fd00::7%eth0":            "[fd00::7]:7700",
		"[::1]:9":                 "[::1]:9",
		"fe80::7%eth0":            "[fe80::7%eth0]:7700",
		"[fe80::7%eth0.5_x-1]:9":  "[fe80::7%eth0.5_x-1]:9",
		"fe80::7":                 "",
		"[fe80::7]:9":             "",
		"fe80::7%no such (thing)": "",
		"[fd00::7]":               "",
		"[fd00::7]:0":             "",
		"fd00::7:":                "",
	} {
		got, err := parseAddr(written, 7700)
		switch {
		case want == "" && err == nil:
			t.Errorf("%q is read as %v", written, got)
		case want == "" && !strings.Contains(err.Error(), "write "):
			t.Errorf("%q is refused without a remedy: %v", written, err)
		case want != "" && (err != nil || got.String() != want):
			t.Errorf("%q is read as %v, %v, want %s", written, got, err, want)
		}
	}
	for bind, want := range map[string]string{"fe80::1%eth0": "fe80::1%eth0", "::1": "::1", "::ffff:127.0.0.1": "127.0.0.1", "fd00::1%eth0": "fd00::1"} {
		if cfg, err := parseArgs([]string{"-bind", bind, "Alex"}, io.Discard); err != nil || cfg.bind.String() != want {
			t.Errorf("-bind %s: %v, %v", bind, cfg, err)
		}
	}
	for _, bind := range []string{"fe80::1", "::", "0.0.0.0", "ff02::1%eth0", "224.0.0.1"} {
		if _, err := parseArgs([]string{"-bind", bind, "Alex"}, io.Discard); err == nil {
			t.Errorf("-bind %s is taken", bind)
		}
	}
}

// TestArgumentsHaveBounds: what lies outside is refused, and what lies at a bound isn't.
func TestArgumentsHaveBounds(t *testing.T) {
	t.Parallel()
	for written, ok := range map[string]bool{
		"-idle 0s": true, "-idle -1s": false, "-wait -1ns": false,
		"-keep 1048576GiB": true, "-keep 1048577GiB": false,
		"-keep 17179869185GiB": false, // 1 GiB in 64 bits
	} {
		_, err := parseArgs(append(strings.Fields(written), "Alex"), io.Discard)
		if _, wrong := errors.AsType[usageError](err); wrong == ok {
			t.Errorf("%s: %v", written, err)
		}
	}
}

func TestTableIsReadAsItIsWritten(t *testing.T) {
	t.Parallel()
	table, err := parsePeersFile("#\tours\r\n\t\r\nTim\t192.168.0.7\t# the desk\r\n Tim B \t 192.168.0.8:9 \r\nC# 192.168.0.9", 7700)
	var got []string
	for _, x := range table {
		got = append(got, fmt.Sprint(x.alias, " at ", x.addr))
	}
	want := []string{"Tim at 192.168.0.7:7700", "Tim B at 192.168.0.8:9", "C# at 192.168.0.9:7700"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("the table is read as %q, %v; want %q", got, err, want)
	}
}

// TestSecretIsTakenOrRefused: by its length, by where it comes from, and with a
// warning if others can read it.
func TestSecretIsTakenOrRefused(t *testing.T) {
	longest := strings.Repeat("x", maxSecret)
	if cfg := new(config); cfg.readSecret(file(t, "secret", longest+"\r\n")) != nil || cfg.secret != longest {
		t.Error("the longest secret is refused")
	}
	if new(config).readSecret(file(t, "secret", longest+"x")) == nil {
		t.Error("a longer one is taken")
	}
	if err := new(config).readSecret(t.TempDir()); err == nil || !strings.Contains(err.Error(), "cannot read") {
		t.Errorf("a directory: %v", err)
	}
	t.Setenv("P2PCHAT_SECRET", "of the environment")
	for mode, warned := range map[os.FileMode]bool{0o600: false, 0o640: true, 0o604: true, 0o611: false} {
		name := file(t, "secret", "of the file")
		must(t, os.Chmod(name, mode))
		cfg := new(config)
		if err := cfg.readSecret(name); err != nil || cfg.secret != "of the file" {
			t.Errorf("with both, the secret is %q, %v", cfg.secret, err)
		}
		if runtime.GOOS != "windows" && (cfg.warning != "") != warned {
			t.Errorf("a file of mode %o: the warning is %q", mode, cfg.warning)
		}
	}
}

func TestBannerSaysWhoAndWhere(t *testing.T) {
	t.Parallel()
	said := newTranscript()
	own := netip.MustParseAddrPort("192.168.0.7:40123")
	for _, cfg := range []*config{
		{name: "Alex", port: 7700},
		{name: "Alex", port: 7700, secret: "x", warning: "others can read it"},
	} {
		a := &app{cfg: cfg, v: newVoice(said)}
		a.banner(own)
		a.v.close()
	}
	const who = "p2pchat: Alex at 192.168.0.7:40123 in "
	want := []string{who + "the open room of port 7700; /help lists the commands", "p2pchat: others can read it",
		who + "a private room of port 7700; /help lists the commands"}
	if got := said.lines(); !slices.Equal(got, want) {
		t.Errorf("standard error says %q, want %q", got, want)
	}
}

// TestCommandsDoWhatTheySay: what stands behind a command that takes nothing makes
// another line of it, and what is refused says what to do instead.
func TestCommandsDoWhatTheySay(t *testing.T) {
	t.Parallel()
	const all = "@Ann@192.168.0.9:7700, @Ann@192.168.0.9:40123, @Tim@192.168.0.7:7700, @Tim B@192.168.0.8:7700"
	for line, c := range map[string]struct {
		refused, shown string // how what standard error says begins, and all that is shown
		kind           byte   // of what is said to all
		text           string
	}{
		"/members  ":                           {shown: "member Alex (me)|member Ann@192.168.0.9:7700 since|member Ann@192.168.0.9:40123 since|member Tim@192.168.0.7:7700 since|member Tim B@192.168.0.8:7700 since"},
		"/members x":                           {refused: `unknown command "/members"; /help `},
		"/help  ":                              {shown: strings.Join(helpText, "|")},
		"/help x":                              {refused: `unknown command "/help"; /help `},
		"/hooray  ":                            {kind: kindLines, text: greeting},
		"/hooray x":                            {refused: `unknown command "/hooray"; /help `},
		"/name  Bo ":                           {kind: kindRename, text: "Bo"},
		"/name Alex":                           {},
		"/history  -1":                         {refused: `"-1" is no number of lines; try `},
		"/exit now":                            {refused: `unknown command "/exit"; /help `},
		"@Tim":                                 {refused: `nothing to say to Tim; write `},
		"@Nobody":                              {refused: `nobody here is called "Nobody"; write to one who is here: ` + all + `; or a second @ before it `},
		"@Tim, x":                              {refused: `nobody here is called "Tim,"; write to one who is here: `},
		"@tim x":                               {refused: `nobody here is called "tim", and "Tim" differs in capitals; write `},
		"tim/x":                                {refused: `nobody here is called "tim", and "Tim" differs in capitals; write to one who is here: ` + all + `; or a space before it `},
		"@Tim B C x":                           {refused: `Tim B C is not connected; write `},
		"@Ann@192.168.0.9 x":                   {refused: `"Ann@192.168.0.9" can be any of several; write `},
		" @Tim x":                              {refused: `only a plain @ at the beginning of the line writes to Tim alone, `},
		"@Tim " + strings.Repeat("x", maxText): {refused: "a direct message of "},
	} {
		said := newTranscript()
		a := atDesk(false)
		a.v = newVoice(said)
		before := len(a.h.chronology())
		if !a.command(context.Background(), []byte(line), len(line)) {
			t.Errorf("%.50q leaves", line)
		}
		a.v.close()
		if got := strings.TrimPrefix(said.String(), "p2pchat: "); !strings.HasPrefix(got, c.refused) || (got == "") != (c.refused == "") {
			t.Errorf("%.50q is refused with %q, want %q", line, got, c.refused)
		}
		shown := []string{}
		for _, e := range slices.Concat(a.h.queue...) {
			shown = append(shown, regexp.MustCompile(`( since) .*`).ReplaceAllString(string(e.sealed), "$1"))
		}
		if got := strings.Join(shown, "|"); got != c.shown {
			t.Errorf("%.50q shows %q, want %q", line, got, c.shown)
		}
		events := a.h.chronology()[before:]
		if len(events) != min(len(c.text), 1) || len(events) == 1 && (events[0].kind != c.kind || string(events[0].content().text) != c.text) {
			t.Errorf("%.50q says %d things to all, want %q", line, len(events), c.text)
		}
		if lines := a.said.Load(); c.kind == kindLines && lines != 1 {
			t.Errorf("%q counts as %d lines that are to be heard", line, lines)
		}
	}
	a := atDesk(false)
	a.v = newVoice(io.Discard)
	a.command(context.Background(), []byte("@Tim \xff\xfe"), 7)
	if all := a.h.chronology(); string(all[len(all)-1].content().text) != "Tim\n\ufffd\ufffd" {
		t.Errorf("bytes that are no text are sent to one alone as %q", all[len(all)-1].content().text)
	}
	for range maxQueue + 1 {
		a.command(context.Background(), []byte("/help"), 5)
	}
	if got := a.refused.Load(); got != 1 {
		t.Errorf("when nobody reads, %d answers are refused, want 1", got)
	}
}

// TestNameEndsWhereNoWordGoesOn: in what looks like @WHO. WHO/ ends with its slash.
func TestNameEndsWhereNoWordGoesOn(t *testing.T) {
	t.Parallel()
	a := atDesk(false)
	a.n.targets = append(a.n.targets, &target{}, &target{alias: "-dash"})
	for s, want := range map[string]string{
		"@tim: x": "Tim", "@tim\u0301 x": "", "@tim5 x": "", "@tim\u093f x": "", "@timo x": "", "@-DASH x": "-dash", "@ x": "",
		"tim/x": "Tim", "tim - b/x": "", "192.168.0.7/x": "", "@192.168.0.7, x": "192.168.0.7", "@invalid IP x": "",
	} {
		if got := a.resembled(s); got != want {
			t.Errorf("%q is like %q, want %q", s, got, want)
		}
	}
	a.cfg.targets = a.n.targets
	for _, s := range []string{"Tim", "\u200b/x"} {
		if a.isAddressed([]byte(s)) {
			t.Errorf("%q is taken for a message to one alone", s)
		}
	}
}

// TestFewLinesMayBePrivate: a line that can't be is not held up at the beginning of a pipe.
func TestFewLinesMayBePrivate(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{
		"and/or": true, "@x": true, "\u3000@x": true, "\uff20x": true, "hi": false, "": false, "  hi": false,
		"/x": false, "Tim /x": false, "https://a.example": false, strings.Repeat("x", 2*maxNameBytes) + "/": true, strings.Repeat("x", 2*maxNameBytes+1) + "/": false,
	} {
		if got := maybePrivate([]byte(line)); got != want {
			t.Errorf("%q may be private: %v", line, got)
		}
	}
}

// TestPipeWaitsForAReceiverAndNobodyElseDoes: of WHO/ only if WHO is like nobody who is
// here.
func TestPipeWaitsForAReceiverAndNobodyElseDoes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line  string
		kind  inputKind
		waits bool
	}{
		{"@tim x", fromPipe, true}, {"@Tim x", fromPipe, false}, {"tim/x", fromPipe, false}, {"Bob/x", fromPipe, true},
		{"@tim x", fromTerminal, false}, {"Bob/x", fromTerminal, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := atDesk(false)
			a.v, a.input, a.cfg.wait = newVoice(io.Discard), c.kind, time.Second
			began := time.Now()
			a.direct(context.Background(), c.line)
			if took := time.Since(began); took != time.Second && c.waits || took > 0 && !c.waits {
				t.Errorf("%q: it took %v", c.line, took)
			}
		})
	}
}

// TestTypingWaitsForNobody, and that the terminal is gone is not told to it.
func TestTypingWaitsForNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		said := newTranscript()
		a := atDesk(false)
		a.v, a.typing, a.cfg.wait, a.ended = newVoice(said), true, time.Second, make(chan struct{})
		a.screen = newScreen(io.MultiReader(strings.NewReader("and/or\r"), iotest.ErrReader(syscall.EIO)), io.Discard)
		began := time.Now()
		a.read(context.Background())
		<-a.ended
		if took := time.Since(began); took > 0 || a.said.Load() != 1 || said.String() != "" {
			t.Errorf("it took %v, %d lines are said, and standard error says %q", took, a.said.Load(), said)
		}
	})
}

// TestVoiceIsCleanWholeAndBounded, whatever it says and however long nobody reads it.
func TestVoiceIsCleanWholeAndBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		v := newVoice(w)
		v.say("red \x1b[31m")
		synctest.Wait() // it is being written
		v.say("second")
		for range 2 * maxUnread / 1000 {
			v.say("%s", strings.Repeat("x", 1000))
		}
		if n := len(v.unread); n > maxUnread || n < maxUnread-2000 {
			t.Errorf("%d bytes wait", n)
		}
		go func() { v.close(); w.Close() }()
		all, err := io.ReadAll(r)
		must(t, err)
		if got := strings.SplitAfter(string(all), "\n"); got[0] != "p2pchat: red ␛[31m\n" || got[1] != "p2pchat: second\n" || got[len(got)-1] != "" {
			t.Errorf("it begins with %.50q", got[0]+got[1])
		}
	})
}

// TestEndOfAPipeWaitsUntilItIsHeard: for -wait at most, and then the verdict is what was
// heard. A signal ends the wait.
func TestEndOfAPipeWaitsUntilItIsHeard(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		act    func(a *app)
		took   time.Duration
		says   string
		status int
	}{
		"nothing said":   {func(*app) {}, 0, "", 0},
		"a refused line": {func(a *app) { a.refuse("no") }, 0, "p2pchat: no\n", 1},
		"nobody heard": {func(a *app) { a.n.say(kindLines, []byte("a\nb")); a.said.Store(2) }, time.Second,
			"p2pchat: nobody heard 2 of 2 messages; check that somebody is there, or wait longer with -wait\n", 1},
		"some lag behind": {func(a *app) {
			a.n.say(kindLines, []byte("a"))
			a.said.Store(1)
			a.n.bestAck = a.h.about(a.n.id).last
		}, time.Second, "p2pchat: heard, but not yet by Ann@192.168.0.9, Ann@192.168.0.9:40123, Tim B@192.168.0.8, Tim@192.168.0.7; they get it from the others, as far as these still hold it\n", 0},
		"a direct message": {func(a *app) {
			a.direct(context.Background(), "@Tim x")
			clear(a.n.conns)
			a.n.bestAck = a.h.about(a.n.id).last
		}, time.Second, "", 0},
		"a direct message, and some lag behind": {func(a *app) {
			a.direct(context.Background(), "@Tim x")
			for _, ct := range a.n.contacts {
				ct.out = nil // it was acknowledged
			}
		}, 0, "", 0},
		"somebody is about to connect": {func(a *app) {
			a.n.say(kindLines, []byte("a"))
			a.said.Store(1)
			clear(a.n.conns)
			a.n.bestAck = a.h.about(a.n.id).last
			a.n.handshakes = []*conn{new(conn)}
		}, comingWait, "", 0},
		"not delivered": {func(a *app) { a.n.undelivered = 2 }, 0, "", 1},
		"typed":         {func(a *app) { a.input = fromTerminal; a.refuse("no"); a.said.Store(1) }, 0, "p2pchat: no\n", 0},
	} {
		for _, signalled := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				said := newTranscript()
				a := atDesk(false)
				a.v, a.input, a.ended, a.n.patience = newVoice(said), fromPipe, make(chan struct{}), time.Second
				c.act(a)
				a.n.gather.from = "Tim"
				a.hint(nil) // of which he who has met somebody hears nothing
				interrupted, interrupt := context.WithCancel(context.Background())
				close(a.ended)
				want := c.took
				if signalled {
					want /= 2
					time.AfterFunc(want, interrupt)
				}
				for _, at := range []time.Duration{comingWait, a.n.patience} { // as in a node that runs
					time.AfterFunc(at, func() {
						a.n.mu.Lock()
						defer a.n.mu.Unlock()
						a.n.changedLocked()
					})
				}
				began := time.Now()
				a.awaitEnd(interrupted, context.Background())
				took := time.Since(began)
				status := a.verdict()
				a.v.close()
				interrupt()
				if took != want || status != c.status || !strings.HasPrefix(said.String(), c.says) || c.says == "" && said.String() != "" {
					t.Errorf("%s, signalled %v: it took %v, says %q and ends with %d; want %v, %q and %d", name, signalled, took, said, status, want, c.says, c.status)
				}
			})
		}
	}
}
