package main

// What is typed at a terminal, and what its screen shows. The line being typed
// and the owner of the screen are tested here as values, bytes in and bytes
// out. Then tmux runs p2pchat on a real pty, types into it, and tells what the
// screen shows; a shell stands below where it matters what the program leaves
// behind.

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// ---- the line being typed

const (
	keyLeft, keyRight, keyUp, keyDown = "\x1b[D", "\x1b[C", "\x1b[A", "\x1b[B"
	ctrlA, ctrlE                      = "\x01", "\x05"
	family                            = "\U0001F468\u200D\U0001F469\u200D\U0001F467" // one emoji of five characters
	flags                             = "\U0001F1E9\U0001F1EA\U0001F1EB\U0001F1F7"   // two
)

// pastes is what a terminal sends when text is pasted.
func pastes(text string) string { return paste + text + endOfPaste }

// enters presses keys and returns the lines that were entered, and the one
// being typed, with | for the cursor.
func (e *editor) enters(keys string) (lines []string, row string) {
	e.keys = append(e.keys, keys...)
	for {
		key, line := e.next()
		switch key {
		case "":
			return lines, string(e.line[:e.at]) + "|" + string(e.line[e.at:])
		case "\r", "\n":
			lines = append(lines, line)
		default:
			lines = append(lines, fmt.Sprintf("%q", key))
		}
	}
}

func TestKeysEditTheLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, keys, want string }{
		{"text", "héllo 日本", "héllo 日本|"},
		{"Left, Right", "abc" + keyLeft + keyLeft + "x" + keyRight + "y", "axby|c"},
		{"Left at the beginning, Right at the end", keyLeft + "a" + keyLeft + keyLeft + "b" + keyRight + keyRight + "c", "bac|"},
		{"Ctrl-B, Ctrl-F", "abc\x02\x02x\x06y", "axby|c"},
		{"Home, End", "abc\x1b[Hx\x1b[Fy", "xabcy|"},
		{"Home, End of other terminals", "abc\x1b[1~x\x1b[4~y\x1bOHz\x1bOF\x1b[7~v\x1b[8~w", "vzxabcyw|"},
		{"Ctrl-A, Ctrl-E", "abc\x01x\x05y", "xabcy|"},
		{"Delete", "abc" + ctrlA + "\x1b[3~", "|bc"},
		{"Delete at the end", "abc\x1b[3~", "abc|"},
		{"Backspace", "abc" + keyLeft + "\x7f\b", "|c"},
		{"Backspace at the beginning", "abc" + ctrlA + "\x7f", "|abc"},
		{"Ctrl-K", "abc" + keyLeft + "\x0b", "ab|"},
		{"Ctrl-U", "abc" + keyLeft + "\x15", "|c"},
		{"Ctrl-W", "one two  ", "one two  |"},
		{"Ctrl-W takes a word", "one two  \x17", "one |"},
		{"Ctrl-W takes the only word", " żółw\x17", " |"},
		{"Ctrl-W within a word", "one two" + keyLeft + "\x17", "one |o"},
		{"Ctrl-W behind a wide space", "日本\u3000日本語\x17", "日本\u3000|"},
		{"Ctrl-D is Delete in a line", "abc" + ctrlA + "\x04", "|bc"},
		{"Ctrl-D at the end", "abc\x04", "abc|"},
		{"a letter with its marks", "xe\u0301\u0302y" + keyLeft + "\x7f", "x|y"},
		{"over a letter with its marks", "xe\u0301y" + keyLeft + keyLeft + "-", "x-|e\u0301y"},
		{"a wide letter", "日本語" + keyLeft + "\x7f", "日|語"},
		{"an emoji sequence", "a" + family + "b" + keyLeft + "\x7f", "a|b"},
		{"Delete of an emoji sequence", "a" + family + "b" + ctrlA + keyRight + "\x1b[3~", "a|b"},
		{"a skin tone", "\U0001F44D\U0001F3FD\x7f", "|"},
		{"flags are pairs", flags + "\x7f", flags[:8] + "|"},
		{"over the flags", flags + keyLeft + keyLeft + "x" + keyRight, "x" + flags[:8] + "|" + flags[8:]},
		{"the flag of England", "x\U0001F3F4\U000E0067\U000E0062\U000E0065\U000E006E\U000E0067\U000E007F\x7f", "x|"},
		{"a heart in colour", "x\u2764\ufe0f\x7f", "x|"},
		{"Hangul of parts", "x\u1100\u1161\u11a8\x7f", "x|"},
		{"Hindi", "\u0939\u093f\x7f", "|"},
		{"a letter that joins no other", "x\u200c\x7f", "|"},
		{"a letter behind a joiner", "x\u200dy\x7f", "x\u200d|"},
		{"a mark without a letter", pastes("x\n\u0301") + "\x7f", "x\n|"},
		{"other keys write nothing", "a\x1b[15~\x1b[[A\x1bOP\x1b[1;5C\x1b[Z\x1b[27;5;9~\x1b[57u\x1b[<0;1;2M\x1bb\x1b\u00e9\x00\x07\x12\x13\x19\x1c\x1f", "a|"},
		{"Escape", "\x1b\x1b[D\x1b\x1b\x1b[Ca", "a|"},
		{"replies of the terminal", "a\x1b]11;rgb:ff/ff/ff\x1b\\b\x1b]10;rgb:0/0/0\ac\x1bP1$r0m\x1b\\d", "abcd|"},
		{"Alt with ] or P is no reply", "\x1b]ab" + keyLeft + "\x1bPc" + keyLeft, "a|cb"},
		{"a reply has a limit", "\x1b]" + strings.Repeat("x", maxReply) + keyLeft, strings.Repeat("x", maxReply-1) + "|x"},
		{"bytes that are no text", "a\xffb\xc3", "a\ufffdb|"},
		{"Ctrl-Left moves", "ab\x1b[1;5Dx", "ax|b"},
	} {
		whole := new(editor)
		lines, got := whole.enters(c.keys)
		if got != c.want || lines != nil {
			t.Errorf("%s: %q gives %q and enters %q, want %q", c.name, c.keys, got, lines, c.want)
		}
		bit := new(editor) // keys may come in pieces
		for i := range len(c.keys) {
			_, got = bit.enters(c.keys[i : i+1])
		}
		if got != c.want {
			t.Errorf("%s: %q byte by byte gives %q, want %q", c.name, c.keys, got, c.want)
		}
	}
}

func TestUpBringsBackOwnLines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, keys, want string }{
		{"nothing to bring back", "half" + keyUp + keyDown, "half|"},
		{"the last", "one\rtwo\r" + keyUp, "two|"},
		{"the first, and no further", "one\rtwo\r" + keyUp + keyUp + keyUp, "one|"},
		{"back to the half-typed one", "one\rtwo\rhalf" + keyUp + keyUp + keyDown + keyDown + keyDown, "half|"},
		{"Ctrl-P, Ctrl-N", "one\rtwo\r\x10\x10\x0e", "two|"},
		{"what is brought back can be entered again", "one\rtwo\r" + keyUp + keyUp + "!\r" + keyUp, "one!|"},
		{"twice the same is once", "one\rtwo\rtwo\r" + keyUp + keyUp, "one|"},
		{"empty lines are none", "one\r\r\r" + keyUp, "one|"},
		{"the half-typed one goes with its Enter", "one\rhalf" + keyUp + "\r" + keyUp + keyDown, "|"},
	} {
		if _, got := new(editor).enters(c.keys); got != c.want {
			t.Errorf("%s: %q gives %q, want %q", c.name, c.keys, got, c.want)
		}
	}
	e := new(editor)
	for i := range 5 * maxOwn {
		e.enters(fmt.Sprint(i, "\r"))
	}
	e.enters(strings.Repeat("x", maxLine+1) + "\r")
	if n := len(e.own); n > maxOwn+2 {
		t.Errorf("%d earlier lines are held", n)
	}
	if _, got := e.enters(keyUp); got != fmt.Sprint(5*maxOwn-1, "|") {
		t.Errorf("the last line is %.60q", got)
	}
}

func TestTabCompletes(t *testing.T) {
	known := []string{"/members", "/history ", "/help", "@Tim ", "@Timothy ", "@Ann@10.0.0.1:7700 ", "@Ann@10.0.0.2:7700 ", "@Żółw Ninja ", "@Zé", "@Zó"}
	for _, c := range []struct{ keys, want string }{
		{"/m\t", "/members|"},
		{"/h\t", "/h|"},
		{"/hi\t5", "/history 5|"},
		{"@T\t", "@Tim|"},
		{"@Timo\thi", "@Timothy hi|"},
		{"@A\t2\t", "@Ann@10.0.0.2:7700 |"},
		{"@Ż\t", "@Żółw Ninja |"},
		{"@Ż" + keyLeft + "\t", "@|Ż"},
		{"@X\t", "@X|"},
		{"@Z\t", "@Z|"},
		{"hello\t", "hello|"},
		{"\t", "|"},
		{"hi" + ctrlA + "@Timo\t", "@Timothy |hi"},
	} {
		e := &editor{completions: func() []string { return known }}
		if _, got := e.enters(c.keys); got != c.want {
			t.Errorf("%q gives %q, want %q", c.keys, got, c.want)
		}
	}
	a := atDesk(false)
	want := []string{"@Ann@192.168.0.9:7700 ", "@Ann@192.168.0.9:40123 ", "@Tim ", "@Tim B "}
	got := slices.DeleteFunc(a.completions(), func(s string) bool { return s[0] == '/' })
	if !slices.Equal(got, want) {
		t.Errorf("those who are here complete to %q, want %q", got, want)
	}
	help := strings.Join(helpText, "\n")
	for _, c := range regexp.MustCompile(`(?m)^/[a-z]+|, /[a-z]+`).FindAllString(help, -1) {
		c = strings.TrimPrefix(c, ", ")
		if !slices.ContainsFunc(a.completions(), func(s string) bool { return strings.TrimSpace(s) == c }) {
			t.Errorf("%s of the help is not completed", c)
		}
	}
}

func TestCtrlDEndsOnAnEmptyLineOnly(t *testing.T) {
	lines, row := new(editor).enters("a\x04\x7f\x04b\r\x04\x1a")
	if want := []string{`"\x04"`, "b", `"\x04"`, `"\x1a"`}; !slices.Equal(lines, want) || row != "|" {
		t.Errorf("got %q and %q, want %q", lines, row, want)
	}
}

// TestPasteIsText: what is pasted is said as it stands, line by line, unless
// it is one line without an end, which counts as typed.
func TestPasteIsText(t *testing.T) {
	for _, c := range []struct {
		name, keys string
		want       []string // what a paste says begins with =
	}{
		{"one line", pastes("hi"), []string{"hi"}},
		{"a command without a line end counts as typed", pastes("/help"), []string{"/help"}},
		{"a direct message without a line end too", pastes("@Tim pin"), []string{"@Tim pin"}},
		{"with a line end it is text", pastes("exit\n"), []string{"=exit"}},
		{"commands", pastes("exit\r/help\r// x\r@@ x\r"), []string{"=exit", "=/help", "=// x", "=@@ x"}},
		{"into a line", "say: " + pastes("a\nb") + "!", []string{"=say: a", "=b!"}},
		{"empty lines say nothing", pastes("\n\na\r\n\r\nb\n"), []string{"=a", "=b"}},
		{"two pastes", pastes("a\n") + pastes("b\n"), []string{"=a", "=b"}},
		{"behind an address", "@Tim " + pastes("one\ntwo\n"), []string{"@Tim one two"}},
		{"behind a name", "Tim/" + pastes("one\r\ntwo"), []string{"Tim/one two"}},
		{"behind the name of nobody", "@Nobody " + pastes("one\ntwo"), []string{"=@Nobody one", "=two"}},
		{"with an address in front", pastes("@Tim\nmy pin"), []string{"@Tim my pin"}},
		{"keys in a paste", pastes("a\x1b[D\x03\x04\x1a\x7fb\n"), []string{"=a\x1b[D\x03\x04\x1a\x7fb"}},
		{"no text", pastes(""), nil},
		{"verbatim, behind an address", "@Tim " + pastes("one\ntwo"), []string{"=@Tim one", "=two"}},
	} {
		a := atDesk(strings.HasPrefix(c.name, "verbatim"))
		a.screen = newScreen(strings.NewReader(c.keys+"\r"), io.Discard)
		next := a.typed()
		var got []string
		for {
			e, err := next()
			if err != nil {
				break
			}
			line := string(e.line)
			if e.asIs {
				line = "=" + line
			}
			got = append(got, line)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q is entered as %q, want %q", c.name, c.keys, got, c.want)
		}
	}
}

func TestLongLineIsRefusedWithItsLength(t *testing.T) {
	t.Parallel()
	a := atDesk(false)
	a.screen = newScreen(strings.NewReader(strings.Repeat("é", maxLine/2)+"\r"+strings.Repeat("é", maxLine/2)+"x\r"), io.Discard)
	next := a.typed()
	if e, err := next(); err != nil || len(e.line) != maxLine {
		t.Errorf("a line of %d bytes comes as one of %d, %v", maxLine, len(e.line), err)
	}
	if e, err := next(); err != nil || e.line != nil || e.length != maxLine+1 {
		t.Errorf("a line of %d bytes comes as one of %d of %d, %v", maxLine+1, len(e.line), e.length, err)
	}
}

func TestRowBytes(t *testing.T) {
	for _, c := range []struct {
		keys    string
		columns int
		want    string
	}{
		{"", 80, "> ^"},
		{"abc", 80, "> abc^"},
		{"abc" + keyLeft, 80, "> ab^c"},
		{"0123456789", 13, "> 0123456789^"},
		{"0123456789", 12, "> 123456789^"},
		{"0123456789" + keyLeft, 12, "> 12345678^9"},
		{"0123456789" + keyLeft + keyLeft + keyLeft + keyLeft, 11, "> 012345^67"},
		{"0123456789" + ctrlA, 11, "> ^01234567"},
		{"日本語日本語", 10, "> 日本語^"},
		{"日本語" + ctrlA, 10, "> ^日本語"},
		{"日本語" + ctrlA, 8, "> ^日本"},
		{"e\u0301e\u0301e\u0301e\u0301", 6, "> e\u0301e\u0301e\u0301^"},
		{pastes("a\tb\nc"), 80, "> a b␊c^"},
		{pastes("a\x1b[31m\u202e"), 80, "> a␛[31m<U+202E>^"},
		{"abc", 3, "> ^"},
		{"abc", 1, "> ^"},
	} {
		e := new(editor)
		e.enters(c.keys)
		want := strings.Replace("\x1b[?7l"+c.want+"\x1b8\x1b[?7h", "^", "\x1b7", 1)
		if got := string(e.appendTo(nil, c.columns)); got != want {
			t.Errorf("%q in %d columns is shown as %q, want %q", c.keys, c.columns, got, want)
		}
	}
}

func TestColumns(t *testing.T) {
	for text, want := range map[string]int{
		"a": 1, "é": 1, "e\u0301": 1, "1\u20dd": 1, "x\u200c": 1, "—": 1, "\u1200": 1, "日": 2, "\u2300": 2, "\u1100\u1161\u11a8": 2, "👍": 2,
	} {
		if got := columnsOf(text); got != want {
			t.Errorf("%+q takes %d columns, want %d", text, got, want)
		}
	}
}

// TestRowFits: whatever stands in the line, and wherever the cursor, the row
// holds what is round the cursor and isn't wider than the window.
func TestRowFits(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	signs := []string{"a", "b", " ", "日", "e\u0301", family, flags, "\t", "—", "ह", "\u093f"}
	for range 2000 {
		e, columns := new(editor), 1+r.IntN(120)
		for range r.IntN(120) {
			e.insert(signs[r.IntN(len(signs))])
		}
		for range r.IntN(60) {
			e.press(keyLeft)
		}
		row := string(e.appendTo(nil, columns))
		before, after, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(row, "\x1b[?7l"+prompt), "\x1b8\x1b[?7h"), "\x1b7")
		if n := columnsOf(before) + columnsOf(after); n > max(0, columns-len(prompt)-1) {
			t.Fatalf("seed %d: %q is %d columns wide in a window of %d", seed, row, n, columns)
		}
		if columns > 100 && (before == "" && e.at > 0 || after == "" && e.at < len(e.line)) {
			t.Fatalf("seed %d: %q at %d of %q doesn't show what is round the cursor", seed, row, e.at, string(e.line))
		}
	}
}

// FuzzKeys: no key, and no garbage, panics, puts the cursor beside the line or
// writes a control character into it, unless it was pasted.
func FuzzKeys(f *testing.F) {
	for _, s := range []string{"abc" + keyLeft + "\x7f", "one\rtwo" + keyUp + keyDown + "\t", flags + keyLeft + keyLeft, pastes("a\nb") + "\r", "\x1b[", "\xf0\x9f", "\x17\x0b\x15\x0c"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, keys []byte) {
		e := &editor{completions: func() []string { return []string{"@Tim ", "/help"} }}
		for b := range slices.Chunk(keys, 3) {
			e.enters(string(b))
			e.appendTo(nil, 20)
			if e.at < 0 || e.at > len(e.line) {
				t.Fatalf("%q puts the cursor at %d of %d", keys, e.at, len(e.line))
			}
		}
		if !bytes.Contains(keys, []byte(paste)) && slices.ContainsFunc(e.line, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Fatalf("%q writes %q", keys, string(e.line))
		}
		if !utf8.ValidString(string(e.line)) {
			t.Fatalf("%q writes %q", keys, string(e.line))
		}
	})
}

// ---- the owner of the screen

// A desk is a terminal in memory, for tests in a synctest bubble: keys go in
// by its pipe, and what is written to it is kept, write by write, unless it is
// stuck.
type desk struct {
	*screen
	keys *io.PipeWriter

	mu     sync.Mutex // guards all below
	size   string     // as stty tells it
	writes []string
	words  []string      // what stty was run with
	stuck  chan struct{} // nil, or closed when it takes output again
	takes  time.Duration // what stty takes
}

// newDesk returns a terminal of 40 columns that was taken over.
func newDesk(t *testing.T) *desk {
	t.Helper()
	in, keys := io.Pipe()
	d := &desk{keys: keys, size: "20 40"}
	d.screen = newScreen(in, d)
	d.screen.run = func(_ string, words ...string) (string, error) {
		d.mu.Lock()
		takes := d.takes
		d.mu.Unlock()
		time.Sleep(takes)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.words = append(d.words, strings.Join(words, " "))
		return map[string]string{"-g": "SAVED", "size": d.size}[words[0]], nil
	}
	if !d.open() {
		t.Fatal("the terminal can't be had")
	}
	t.Cleanup(func() { keys.Close() })
	return d
}

func (d *desk) Write(b []byte) (int, error) {
	d.mu.Lock()
	stuck := d.stuck
	d.writes = append(d.writes, string(b))
	d.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	return len(b), nil
}

// shows compares the last that was written, once everybody waits.
func (d *desk) shows(t *testing.T, want string) {
	t.Helper()
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if got := d.writes[len(d.writes)-1]; got != want {
		t.Errorf("the screen got %.300q last, want %.300q", got, want)
	}
}

// gaveBack compares the last that stty was run with.
func (d *desk) gaveBack(t *testing.T) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if last := d.words[len(d.words)-1]; last != "-drain SAVED" {
		t.Errorf("stty was last run with %q", last)
	}
}

// row is what shows text in the row, with the cursor behind it.
func row(text string) string {
	return "\x1b[?2004h\x1b[?7l" + prompt + text + "\x1b7\x1b8\x1b[?7h"
}

const erased = "\r\x1b[J"

func TestWhatIsPrintedStandsAboveTheRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.shows(t, erased+row(""))
		go d.next()
		io.WriteString(d.keys, "half")
		d.shows(t, erased+row("half"))
		before := len(d.writes)
		burst := strings.Repeat("2026-11-22 15:04:05 Tim@192.168.0.7: hello\n", 2000)
		for _, text := range []string{"one line\n", burst} {
			if n, err := d.screen.Write([]byte(text)); n != len(text) || err != nil {
				t.Errorf("%d of %d bytes were written: %v", n, len(text), err)
			}
			d.shows(t, erased+text+row("half"))
		}
		if n := len(d.writes) - before; n != 2 {
			t.Errorf("two pieces of text took %d writes", n)
		}
		io.WriteString(d.keys, "\x0c")
		d.shows(t, "\x1b[H\x1b[2J"+erased+row("half"))
		d.redraw()
		d.shows(t, erased+row("half"))
		d.stop()
		d.shows(t, erased+"\x1b[?2004l")
	})
}

func TestTerminalThatCantBeHadGetsNoEscapes(t *testing.T) {
	setBack := false
	for name, run := range map[string]func(string, ...string) (string, error){
		"no stty":    nil,
		"stty fails": func(string, ...string) (string, error) { return "", errors.New("not a terminal") },
		"stty can't set it": func(_ string, words ...string) (string, error) {
			if words[0] == "-g" || slices.Contains(words, "SAVED") {
				setBack = words[0] != "-g"
				return "SAVED", nil
			}
			return "", errors.New("invalid argument") // of one of several settings; others are made
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			var out bytes.Buffer
			s := newScreen(strings.NewReader("x\n"), &out)
			if s.run = run; s.open() {
				t.Errorf("%s: the terminal is taken over", name)
			}
			s.Write([]byte("a line\n"))
			s.resize()
			s.stop()
			began := time.Now()
			s.close()
			if took := time.Since(began); run == nil && took > 0 {
				t.Errorf("%s: giving nothing back took %v", name, took)
			}
			synctest.Wait()
			if out.String() != "a line\n" {
				t.Errorf("%s: the screen got %q", name, out.String())
			}
		})
	}
	if !setBack {
		t.Error("what could be set is not set back")
	}
}

// TestTerminalIsHadWhereSttyKnowsNoDrain, as on macOS.
func TestTerminalIsHadWhereSttyKnowsNoDrain(t *testing.T) {
	s := newScreen(strings.NewReader(""), io.Discard)
	var words []string
	s.run = func(_ string, w ...string) (string, error) {
		words = append(words, strings.Join(w, " "))
		if w[0] == "-drain" {
			return "", errors.New("invalid argument")
		}
		return "SAVED", nil
	}
	if !s.open() || s.restore() != "SAVED" || words[len(words)-1] != "SAVED" {
		t.Errorf("stty was run with %q", words)
	}
}

// TestTerminalOnBothSidesIsTakenOver, and only one that says what it is.
func TestTerminalOnBothSidesIsTakenOver(t *testing.T) {
	tty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer tty.Close()
	none := open(t, file(t, "none", ""), os.O_RDWR)
	for _, c := range []struct {
		in, out *os.File
		term    string
		taken   bool
	}{{tty, tty, "xterm", true}, {none, tty, "xterm", false}, {tty, none, "xterm", false}, {tty, tty, "", false}, {tty, tty, "dumb", false}} {
		t.Setenv("TERM", c.term)
		if s := screenOf(c.in, c.out); (s.run != nil) != c.taken || (s.beside(c.out) == io.Writer(s)) != c.taken || s.beside(none) != io.Writer(none) {
			t.Errorf("from %s to %s, TERM=%s: it is taken over: %v", c.in.Name(), c.out.Name(), c.term, !c.taken)
		}
	}
}

// TestStoppedTerminalIsGivenBackWithoutTheRow: after Ctrl-S the row is still there when
// we leave, and until -ixon a stty that waits for the output waits for ever.
func TestStoppedTerminalIsGivenBackWithoutTheRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.shows(t, erased+row(""))
		stuck := make(chan struct{})
		d.mu.Lock()
		d.stuck = stuck
		d.mu.Unlock()
		stty := d.run
		d.run = func(name string, words ...string) (string, error) {
			if words[0] != "-drain" {
				<-stuck
			}
			if slices.Contains(words, "-ixon") {
				time.AfterFunc(screenWait/2, func() { close(stuck) }) // a terminal that is slow
			}
			return stty(name, words...)
		}
		go d.screen.Write([]byte("what is stuck\n"))
		synctest.Wait()
		go d.next()
		d.close()
		d.mu.Lock()
		last := d.writes[len(d.writes)-1]
		d.mu.Unlock()
		select {
		case <-stuck:
		default:
			t.Fatal("the terminal is still stopped")
		}
		if want := erased + "\x1b[?2004l"; last != want {
			t.Errorf("when the terminal was given back, the screen had got %q last, want %q", last, want)
		}
		d.gaveBack(t)
	})
}

func TestStuckTerminalDelaysNeitherTypingNorLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.shows(t, erased+row(""))
		stuck := make(chan struct{})
		d.mu.Lock()
		d.stuck = stuck
		d.mu.Unlock()
		defer close(stuck)
		go d.screen.Write([]byte("what nobody sees\n"))
		synctest.Wait()
		go io.WriteString(d.keys, "one\rtwo\rthree")
		for _, want := range []string{"one", "two"} {
			if got, err := d.next(); got != want || err != nil {
				t.Errorf("entered %q, %v; want %q", got, err, want)
			}
		}
		began := time.Now()
		d.close()
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("giving the terminal back took %v", took)
		}
		d.gaveBack(t)
	})
}

func TestTypedAheadIsReadAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		go func() {
			for range 5 { // keys that follow each other before it is quiet
				io.WriteString(d.keys, "rm -rf x\r")
				time.Sleep(typedAhead * 3 / 4)
			}
			d.keys.Close()
		}()
		if line, err := d.next(); line != "rm -rf x" || err != nil {
			t.Fatalf("entered %q, %v", line, err)
		}
		d.stop()
		drained := make(chan error, 1)
		go func() { _, err := d.next(); drained <- err }()
		d.close()
		select {
		case err := <-drained:
			if err != io.EOF {
				t.Errorf("reading away ends with %v", err)
			}
		default:
			t.Error("the terminal was given back before what was typed ahead was read")
		}
		d.shows(t, erased+"\x1b[?2004l")
		d.screen.Write([]byte("goodbye\n"))
		d.shows(t, "goodbye\n")
		d.close() // again is no harm
		d.gaveBack(t)
		if d.open() {
			t.Error("it can be taken over again")
		}
	})
}

// TestGivingBackEndsThoughKeysNeverDo: a key that is held down, or a paste
// without end, is not waited for.
func TestGivingBackEndsThoughKeysNeverDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		var held sync.WaitGroup
		held.Go(func() {
			for _, err := io.WriteString(d.keys, "x"); err == nil; _, err = io.WriteString(d.keys, "x") {
				time.Sleep(typedAhead / 2)
			}
		})
		go d.next()
		began := time.Now()
		d.close()
		if took := time.Since(began); took > 2*farewell {
			t.Errorf("giving the terminal back took %v", took)
		}
		d.gaveBack(t)
		if d.open() {
			t.Error("it can be taken over again")
		}
		d.keys.Close()
		held.Wait()
	})
}

// TestGivingBackTakesItsTime: what is typed at that moment is waited for, though no key
// came for long; a stty that hangs isn't.
func TestGivingBackTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		go d.next()
		time.Sleep(time.Second)
		began := time.Now()
		d.mu.Lock()
		d.takes = time.Hour
		d.mu.Unlock()
		d.close()
		if took := time.Since(began); took != typedAhead+screenWait {
			t.Errorf("it took %v", took)
		}
		time.Sleep(time.Hour) // until stty ends
	})
}

// TestSecondSignalWaitsUntilTheModeIsBack: the program ends when either of two that
// give the terminal back at once has done so. The second waits for a mutex, which
// would stop the clock of a bubble.
func TestSecondSignalWaitsUntilTheModeIsBack(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	go d.next()
	d.screen.Write(nil) // which asks for the size of the window
	d.mu.Lock()
	d.takes = screenWait / 4 // far from where it would be given up
	d.mu.Unlock()
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			d.close()
			d.gaveBack(t)
		})
	}
	both.Wait()
}

// TestHalfKeyIsForgotten: Escape alone, or Alt with ], begins no key with what is
// typed later. A paste may take its time.
func TestHalfKeyIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		go d.next()
		for _, keys := range []string{"a\x1b", "x\x1b]", "[\x1b[20", "c\x1b[200~d", "e\n\x1b[201~"} {
			io.WriteString(d.keys, keys)
			time.Sleep(2 * keyLimit)
		}
		d.shows(t, erased+row("ax[cde␊"))
		io.WriteString(d.keys, "\x1b")
		time.Sleep(keyLimit / 2)
		io.WriteString(d.keys, "[Dx")
		d.shows(t, erased+strings.Replace(row("ax[cdex"), "\x1b8", "␊\x1b8", 1))
	})
}

// TestOutputThatIsCutEndsWithItsLine: a program that leaves while it prints much
// stops between two lines.
func TestOutputThatIsCutEndsWithItsLine(t *testing.T) {
	for name, taken := range map[string]bool{"typed into our row": true, "plain": false} {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t)
			d.shows(t, erased+row(""))
			if !taken {
				d.run, d.saved = nil, ""
			}
			d.isTerminal = true
			a := atDesk(false)
			a.screen = d.screen
			var lines []string
			for i := range 10_000 {
				lines = append(lines, fmt.Sprint("line ", i))
			}
			a.show(answer(lines...))
			stuck := make(chan struct{})
			d.mu.Lock()
			d.stuck = stuck
			d.mu.Unlock()
			printed, end := context.WithCancelCause(context.Background())
			done := make(chan error, 1)
			go func() { done <- a.print(context.Background(), printed) }()
			synctest.Wait()
			end(nil)
			time.AfterFunc(screenWait/2, func() { close(stuck) }) // as a terminal that is slow
			d.close()
			if err := <-done; err != context.Canceled {
				t.Errorf("%s: printing ends with %v", name, err)
			}
			text := regexp.MustCompile(`\x1b[78]|\x1b\[[0-9;?]*[a-zA-Z]|\r|> `).ReplaceAllString(strings.Join(d.writes, ""), "")
			if n := len(strings.Split(text, "\n")); !strings.HasSuffix(text, "\n") || n < 100 || n > 1000 {
				t.Errorf("%s: %d lines are printed, and at last %q", name, n, text[max(0, len(text)-100):])
			}
		})
	}
}

func TestResizedWindowIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		go d.next()
		io.WriteString(d.keys, strings.Repeat("x", 50))
		d.shows(t, erased+row(strings.Repeat("x", 37)))
		d.mu.Lock()
		d.size = "0 0" // as a serial line, which is taken for 80 columns
		d.mu.Unlock()
		d.resize()
		d.shows(t, erased+row(strings.Repeat("x", 50)))
	})
}

func TestOneWhoPastesManyLinesSaysOnePost(t *testing.T) {
	a := atDesk(false)
	a.screen = newScreen(strings.NewReader(pastes("a\nb\nc\n")+"\rd\r"), io.Discard)
	next := a.typed()
	var more []bool
	for range 4 {
		e, err := next()
		must(t, err)
		more = append(more, e.more)
	}
	if want := []bool{true, true, false, false}; !slices.Equal(more, want) {
		t.Errorf("there is more: %v, want %v", more, want)
	}
}

// ---- at a real terminal

// A terminal is a window of tmux, in which a shell or p2pchat itself runs.
type terminal struct {
	t    testing.TB
	name string
	dir  string // $DIR of what runs there; holds the socket of a tmux server of our own, and all that was written to the window
}

// newTerminal runs argv in a window of so many columns and lines.
func newTerminal(t testing.TB, name string, columns, lines int, env []string, argv ...string) *terminal {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no tmux to test the terminal with; install it: apt-get install tmux")
		}
		t.Skip("no tmux to test the terminal with; install it: apt-get install tmux")
	}
	// Not in t.TempDir(): the address of a socket has to be short.
	dir, err := os.MkdirTemp("", "p2pchat")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	tm := &terminal{t: t, name: name, dir: dir}
	must(t, os.WriteFile(tm.file("conf"), []byte("set -g status off\nset -g remain-on-exit on\n"), 0o600))
	cmd := exec.Command("tmux", append([]string{"-u", "-f", tm.file("conf"), "-S", tm.file("sock"), "new-session", "-d",
		"-x", strconv.Itoa(columns), "-y", strconv.Itoa(lines)}, append(argv, ";", "pipe-pane", "cat > "+tm.file("written"))...)...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "TMUX") { // the tests themselves may be run within tmux
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(append(cmd.Env, "P2PCHAT_RUN=1", "TZ=UTC", "SHELL=/bin/sh", "GORACE=atexit_sleep_ms=0", "DIR="+dir), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tmux: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("screen of %s:\n%s", name, strings.Join(tm.screen(), "\n"))
		}
		exec.Command("tmux", "-S", tm.file("sock"), "kill-server").Run()
	})
	return tm
}

// terminalNode runs p2pchat in a window of 80 columns, on loopback, in the
// room of the given UDP port, by a command of the shell in which p2pchat is
// the program.
func terminalNode(t testing.TB, port int, name, command string, flags ...string) *terminal {
	t.Helper()
	command = strings.Replace(command, "p2pchat", `"$0" "$@"`, 1)
	argv := []string{"sh", "-c", `trap : INT QUIT; ` + command + `; echo $? > $DIR/status`, // signals reach the shell as well
		self(t), "-bind", "127.0.0.1", "-port", strconv.Itoa(port)}
	return newTerminal(t, name, 80, 30, nil, append(append(argv, flags...), name)...)
}

// shell runs bash in a window, where chat starts p2pchat as Alex and puts its
// process ID into the file pid.
func shell(t testing.TB, port, columns, lines int) *terminal {
	t.Helper()
	rc := file(t, "rc", `PS1='$ '
bind 'set enable-bracketed-paste off'
chat() { sh -c 'echo $$ > $DIR/pid; exec "$0" "$@"' `+self(t)+` -bind 127.0.0.1 -port `+strconv.Itoa(port)+` "$@" Alex; }
`)
	tm := newTerminal(t, "the shell", columns, lines, nil, "bash", "--rcfile", rc, "-i")
	tm.last("$")
	return tm
}

func (tm *terminal) file(name string) string { return filepath.Join(tm.dir, name) }

// contents waits until a file of the terminal holds a whole line, and returns
// it.
func (tm *terminal) contents(name string) string {
	tm.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if b, _ := os.ReadFile(tm.file(name)); bytes.HasSuffix(b, []byte{'\n'}) {
			return strings.TrimSpace(string(b))
		}
	}
	tm.t.Fatalf("%s: %s is not written", tm.name, name)
	return ""
}

// tmux runs a command of the terminal's server.
func (tm *terminal) tmux(args ...string) string {
	tm.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-u", "-S", tm.file("sock")}, args...)...).CombinedOutput()
	if err != nil {
		tm.t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

// types types text, as it is.
func (tm *terminal) types(text string) { tm.t.Helper(); tm.tmux("send-keys", "-l", "--", text) }

// presses presses keys by their names in tmux: Enter, C-d.
func (tm *terminal) presses(keys ...string) {
	tm.t.Helper()
	tm.tmux(append([]string{"send-keys"}, keys...)...)
}

// enters types a line, as it is, and presses Enter.
func (tm *terminal) enters(line string) { tm.t.Helper(); tm.types(line); tm.presses("Enter") }

// pastes pastes text, in brackets if the program has asked for them.
func (tm *terminal) pastes(text string, flags ...string) {
	tm.t.Helper()
	tm.tmux("set-buffer", "--", text)
	tm.tmux(append([]string{"paste-buffer"}, flags...)...)
}

var (
	stampOnScreen = regexp.MustCompile(stampPat)
	hostOnScreen  = regexp.MustCompile(hostPat)
)

// screen returns the lines on the screen, without the empty ones at its end,
// with TIME and HOST in place of what differs from run to run.
func (tm *terminal) screen() []string {
	tm.t.Helper()
	text := stampOnScreen.ReplaceAllString(tm.tmux("capture-pane", "-p", "-J"), "TIME")
	text = hostOnScreen.ReplaceAllString(text, "HOST")
	lines := strings.Split(strings.TrimRight(text, "\n "), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return lines
}

// until waits until the screen is as ok wants it.
func (tm *terminal) until(what string, ok func(screen []string) bool) {
	tm.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok(tm.screen()) {
			return
		}
	}
	tm.t.Fatalf("%s: the screen doesn't show %s:\n%s", tm.name, what, strings.Join(tm.screen(), "\n"))
}

// shows waits for a line on the screen.
func (tm *terminal) shows(line string) {
	tm.t.Helper()
	tm.until(strconv.Quote(line), func(screen []string) bool { return slices.Contains(screen, line) })
}

// last waits until the screen's last line, which is not empty, is this.
func (tm *terminal) last(line string) {
	tm.t.Helper()
	tm.until(strconv.Quote(line)+" last", func(screen []string) bool { return screen[len(screen)-1] == line })
}

// showsExactly waits until the screen, below the line that says who and where
// we are, holds these lines and nothing else.
func (tm *terminal) showsExactly(lines ...string) {
	tm.t.Helper()
	tm.until("exactly, below the first line:\n"+strings.Join(lines, "\n")+"\nbut", func(screen []string) bool {
		return slices.Equal(screen[1:], lines)
	})
}

// cursor returns where the cursor stands, counted from 0.
func (tm *terminal) cursor() (column int) {
	tm.t.Helper()
	column, _ = strconv.Atoi(strings.TrimSpace(tm.tmux("display-message", "-p", "#{cursor_x}")))
	return column
}

// ended waits for the end of the program and returns its exit status.
func (tm *terminal) ended() string { tm.t.Helper(); return tm.contents("status") }

// atTerminal has Tim on a pipe and Alex at a terminal, who have met.
func atTerminal(t *testing.T, flags ...string) (*proc, *terminal) {
	t.Helper()
	port := freePort(t)
	tim := chat(t, port, []string{"Tim"})
	alex := terminalNode(t, port, "Alex", "p2pchat", flags...)
	tim.sees(patience, at("Alex")+` joined$`)
	alex.shows("TIME * Tim@HOST joined")
	alex.last(">")
	return tim, alex
}

func TestTypedLineTurnsIntoItsTimestampedForm(t *testing.T) {
	t.Parallel()
	tim, alex := atTerminal(t)
	tim.say("hello Alex")
	alex.shows("TIME Tim@HOST: hello Alex")
	alex.enters("hi Tim")
	tim.sees(patience, at("Alex")+`: hi Tim$`)
	alex.shows("TIME Alex (me): hi Tim")
	tim.say("日本語?")
	alex.shows("TIME Tim@HOST: 日本語?")
	alex.enters("@Tim はい, żółw")
	tim.sees(patience, at("Alex")+` -> me: はい, żółw$`)
	alex.shows("TIME Alex (me) -> Tim@HOST: はい, żółw")
	long := strings.Repeat("wide and long ", 20) + "end"
	alex.types(long)
	alex.last("> " + long[len(long)-77:])
	alex.presses("Enter")
	tim.sees(patience, at("Alex")+`: `+long+`$`)
	alex.shows("TIME Alex (me): " + long)
	alex.presses("Up", "Up", "Up")
	alex.last("> hi Tim")
	alex.presses("C-u")
	alex.types("@Ti\t!")
	alex.last("> @Tim !")
	tim.say("/exit")
	alex.showsExactly(
		"TIME * Tim@HOST joined",
		"TIME Tim@HOST: hello Alex",
		"TIME Alex (me): hi Tim",
		"TIME Tim@HOST: 日本語?",
		"TIME Alex (me) -> Tim@HOST: はい, żółw",
		"TIME Alex (me): "+long,
		"TIME * Tim@HOST left",
		"> @Tim !",
	)
}

// TestLineBeingTypedStandsUnharmed: however much comes in, and whatever the
// window's size, the line and the cursor stay, and each write has one row.
func TestLineBeingTypedStandsUnharmed(t *testing.T) {
	t.Parallel()
	const burst = 2000
	tim, alex := atTerminal(t)
	alex.types("half a 日本 line")
	alex.presses("Left", "Left")
	alex.until("the cursor before ne", func([]string) bool { return alex.cursor() == 2+len("half a ")+4+len(" li") })
	lines := make([]string, burst)
	for i := range lines {
		lines[i] = fmt.Sprint("burst ", i)
	}
	tim.say(strings.Join(lines, "\n"))
	alex.presses("C-a")
	alex.types("still ")
	alex.shows("TIME Tim@HOST: burst " + strconv.Itoa(burst-1))
	alex.last("> still half a 日本 line")
	alex.until("the cursor behind still", func([]string) bool { return alex.cursor() == len("> still ") })
	alex.presses("Enter")
	tim.sees(patience, at("Alex")+`: still half a 日本 line$`)
	alex.shows("TIME Alex (me): still half a 日本 line")
	alex.types("the other half, which is longer than a window of half the size")
	alex.tmux("resize-window", "-x", "40", "-y", "20")
	alex.last("> longer than a window of half the size")
	alex.presses("C-a")
	alex.last("> the other half, which is longer than")
	tim.say("more")
	alex.until("more, and the row below", func(screen []string) bool {
		n := len(screen)
		return n > 2 && screen[n-2] == "TIME Tim@HOST: more" && screen[n-1] == "> the other half, which is longer than"
	})
	alex.presses("C-k", "C-d")
	if status := alex.ended(); status != "0" {
		t.Errorf("exit status %s, want 0", status)
	}
	var during []byte
	ok := false
	eventually(t, patience, func() string { // tmux writes on when the program has ended
		_, during, _ = bytes.Cut(noError(os.ReadFile(alex.file("written"))), []byte("burst 0\r\n"))
		during, _, ok = bytes.Cut(during, fmt.Appendf(nil, "burst %d\r\n", burst-1))
		return fmt.Sprintf("%d bytes of the burst were written", len(during))
	}, func() bool { return ok })
	rows := regexp.MustCompile(`\r\x1b\[J|\x1b\[\?2004h[^\n]*?\x1b\[\?7h`)
	n := len(rows.FindAll(during, -1))
	t.Logf("%d lines redrew the row %d times", burst, n/2)
	if n > burst/20 {
		t.Errorf("%d lines redrew the row %d times", burst, n/2)
	}
	for l := range strings.SplitSeq(string(rows.ReplaceAll(during, nil)), "\r\n") {
		if !regexp.MustCompile(`^` + stampPat + ` ` + at("Tim") + `: (burst \d+)?$`).MatchString(l) {
			t.Fatalf("within the burst stands %q", l)
		}
	}
}

func TestPasteAtATerminal(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	tim := chat(t, port, []string{"Tim"})
	alex := shell(t, port, 80, 30)
	alex.enters("clear; cd $DIR; chat")
	tim.sees(patience, at("Alex")+` joined$`)
	alex.last(">")
	alex.pastes("exit\ntouch PWNED\n/help\n// x\n@@ x\n", "-p")
	alex.last("> exit␊touch PWNED␊/help␊// x␊@@ x␊")
	alex.presses("Enter")
	for _, said := range []string{"exit", "touch PWNED", "/help", "// x", "@@ x"} {
		tim.sees(patience, at("Alex")+`: `+regexp.QuoteMeta(said)+`$`)
	}
	alex.types("@Tim ")
	alex.pastes("one\ntwo\n", "-p")
	alex.presses("Enter")
	tim.sees(patience, at("Alex")+` -> me: one two$`)
	for i, private := range []string{"@Tim pin", "a line\n@Tim pin\n"} {
		alex.pastes(private, "-p")
		alex.presses("Enter")
		tim.seesCount(patience, i+1, at("Alex")+` -> me: pin$`)
	}
	alex.pastes("exit\n" + strings.Repeat("touch PWNED\n", 1000)) // as a terminal without brackets pastes
	tim.sees(patience, `\* `+at("Alex")+` left$`)
	alex.last("$")
	alex.enters("echo PWN*")
	alex.shows("PWN*")
	if n := tim.count(`joined$`); n != 1 {
		t.Errorf("Alex joined %d times", n)
	}
}

// TestTerminalIsGivenBack: whatever ends the program, the others see it leave,
// the terminal's mode is what it was, and nothing that was typed reaches the
// shell.
func TestTerminalIsGivenBack(t *testing.T) {
	t.Parallel()
	signal := func(sig syscall.Signal) func(*terminal, *proc) {
		return func(tm *terminal, _ *proc) {
			pid, err := strconv.Atoi(tm.contents("pid"))
			must(t, err)
			must(t, syscall.Kill(pid, sig))
		}
	}
	presses := func(keys ...string) func(*terminal, *proc) {
		return func(tm *terminal, _ *proc) { tm.presses(keys...) }
	}
	ways := []struct {
		name   string
		leave  func(*terminal, *proc)
		status string
		start  string
	}{
		{"Ctrl-D", presses("C-u", "C-d"), "0", ""},
		{"/exit, and typing on", presses("C-u", "/", "e", "x", "i", "t", "Enter", "r", "m", "Enter", "x"), "0", ""},
		{"exit", presses("C-u", "e", "x", "i", "t", "Enter"), "0", ""},
		{"Ctrl-C", presses("C-c"), "0", ""},
		{"Ctrl-\\", presses("C-\\"), "0", ""},
		{"Ctrl-C, and typing on", presses("C-c", "r", "m", "Enter", "x"), "0", ""},
		{"terminate", signal(syscall.SIGTERM), "0", ""},
		{"hang up", signal(syscall.SIGHUP), "0", ""},
		{"suspended, then Ctrl-C", func(tm *terminal, _ *proc) {
			tm.presses("C-z")
			tm.last("$")
			tm.enters("stty -a > $DIR/stopped; fg")
			tm.last("> half typed")
			if tm.contents("stopped") != tm.contents("before") {
				t.Errorf("while stopped the mode is %s", tm.contents("stopped"))
			}
			tm.presses("C-c")
		}, "0", ""},
		{"killed while suspended", func(tm *terminal, _ *proc) {
			tm.presses("C-z")
			tm.last("$")
			tm.enters("kill %1; while kill -0 $(cat $DIR/pid); do sleep .01; done 2> /dev/null")
		}, "0", ""},
		{name: "started in the background", start: "chat &", leave: presses("C-c"), status: "0"},
		{"two signals", func(tm *terminal, tim *proc) {
			freeze(tim) // so that leaving takes its time
			pid, _ := strconv.Atoi(tm.contents("pid"))
			for syscall.Kill(pid, syscall.SIGTERM) == nil {
				time.Sleep(5 * time.Millisecond) // signals that wait together count as one
			}
		}, "1", ""},
	}
	for i, columns := range []int{80, 40} {
		t.Run(fmt.Sprint(columns), func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			tim := chat(t, port, []string{"Tim"})
			tm := shell(t, port, columns, columns/4+10)
			tm.enters("stty -a > $DIR/before")
			tm.contents("before")
			for j, way := range ways {
				if j%2 != i && way.status == "0" {
					continue
				}
				os.Remove(tm.file("pid"))
				joined := tim.count(`joined$`)
				tm.enters("clear; " + cmp.Or(way.start, "chat"))
				if way.start != "" { // the shell's own mode for editing is not the one to give back
					tm.enters("until [ -n \"$(jobs -s)\" ]; do sleep .01; done; fg") // once the shell knows that it has stopped
				}
				tim.seesCount(patience, joined+1, `joined$`)
				tm.last(">")
				tm.types("half typed")
				tm.last("> half typed")
				way.leave(tm, tim)
				tm.last("$")
				tm.enters("echo $? > $DIR/status; stty -a > $DIR/after")
				if got := tm.contents("status"); got != way.status {
					t.Errorf("%s: exit status %s, want %s", way.name, got, way.status)
				}
				if before, after := tm.contents("before"), tm.contents("after"); after != before {
					t.Errorf("%s: the mode was\n%s\nand is\n%s", way.name, before, after)
				}
				if way.status == "0" {
					tim.seesCount(patience, joined+1, `left$`)
				}
				if slices.ContainsFunc(tm.screen(), func(l string) bool { return strings.HasPrefix(l, ">") }) {
					t.Errorf("%s: a row is left on the screen:\n%s", way.name, strings.Join(tm.screen(), "\n"))
				}
				os.Remove(tm.file("status"))
				os.Remove(tm.file("after"))
			}
		})
	}
}

func TestTerminalIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	// At a keyboard nobody is waited for: a mistake is told at once, and is no
	// failure of the program.
	tim, alex := atTerminal(t, "-wait", "1h")
	alex.enters("@Nobody hello")
	alex.until("a refusal", func(screen []string) bool {
		return slices.ContainsFunc(screen, func(l string) bool {
			return strings.HasPrefix(l, "p2pchat: ") && strings.Contains(l, "Nobody")
		})
	})
	alex.presses("Up") // what was refused isn't lost
	alex.last("> @Nobody hello")
	alex.presses("C-u")
	alex.enters("/exit")
	if status := alex.ended(); status != "0" {
		t.Errorf("exit status %s, want 0", status)
	}
	tim.sees(patience, `\* `+at("Alex")+` left$`)
}

func TestHostileTextLeavesTheScreenAlone(t *testing.T) {
	t.Parallel()
	tim, alex := atTerminal(t)
	tim.say("before")
	alex.shows("TIME Tim@HOST: before")
	alex.last(">")
	want := alex.screen()
	want = want[:len(want)-1]
	for _, hostile := range []string{
		"\x1b[2J\x1b[H", "\x1b[10A", "\x1b[1;1H", "\x1b]0;owned\x07", "\x1bc", "\x1b[?1049h", "\u009b2J", "\x1b[8m", "\x1b(0",
		"\r", "\b\b\b", "\v\v", "\f", "\u0085", "\u2028", "\u202e", "\x1bPq\x1b\\", "e" + strings.Repeat("\u0301", 12),
	} {
		tim.say("<" + hostile + ">")
		var got []string
		alex.until("one line more, and the others as they were", func(screen []string) bool {
			got = screen[:len(screen)-1]
			return len(got) == len(want)+1 && slices.Equal(got[:len(want)], want) && screen[len(got)] == ">" &&
				strings.HasPrefix(got[len(want)], "TIME Tim@HOST: <") && strings.HasSuffix(got[len(want)], ">")
		})
		want = got
	}
	tim.say("after")
	want = append(want, "TIME Tim@HOST: after", ">")
	alex.until("the screen as it was", func(screen []string) bool { return slices.Equal(screen, want) })
}

func TestStoppedScreenDelaysNoTyping(t *testing.T) {
	t.Parallel()
	tim, alex := atTerminal(t)
	alex.presses("C-s") // the terminal takes no output from here on
	for range 50 {
		tim.say(strings.Repeat("blah ", 200))
	}
	m := mark(tim)
	alex.enters("still listening")
	tim.sees(patience, at("Alex")+`: still listening$`)
	alex.presses("C-q")
	alex.until("what came meanwhile", func([]string) bool {
		text := alex.tmux("capture-pane", "-p", "-S", "-") // what has scrolled off as well
		return strings.Contains(text, m) && strings.Contains(text, " Alex (me): still listening")
	})
	alex.presses("C-s")
	tim.say("more")
	began := time.Now()
	alex.enters("/exit")
	tim.sees(patience, `\* `+at("Alex")+` left$`)
	if took := time.Since(began); took > leaving {
		t.Errorf("leaving took %v", took)
	}
	if status := alex.ended(); status != "0" { // what can't be printed isn't waited for
		t.Errorf("exit status %s, want 0", status)
	}
}

func TestStoppedPlainTerminalDelaysNoLeaving(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	tim := chat(t, port, []string{"Tim"})
	alex := terminalNode(t, port, "Alex", "TERM=dumb p2pchat")
	tim.sees(patience, at("Alex")+` joined$`)
	alex.presses("C-s")
	for range 50 {
		tim.say(strings.Repeat("blah ", 200))
	}
	mark(tim)
	alex.presses("C-d")
	if status := alex.ended(); status != "0" {
		t.Errorf("exit status %s, want 0", status)
	}
	tim.sees(patience, `\* `+at("Alex")+` left$`)
}

// TestStoppedScreenDelaysNoSignal: it ends, and the terminal's mode is what it
// was, though the terminal takes no output.
func TestStoppedScreenDelaysNoSignal(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	tim := chat(t, port, []string{"Tim"})
	alex := shell(t, port, 80, 30)
	alex.enters("stty -a > $DIR/before; chat; stty -a > $DIR/after")
	tim.sees(patience, at("Alex")+` joined$`)
	alex.last(">")
	alex.types("half typed")
	alex.last("> half typed")
	alex.presses("C-s")
	for range 50 {
		tim.say(strings.Repeat("blah ", 200))
	}
	pid, err := strconv.Atoi(alex.contents("pid"))
	must(t, err)
	waitHeldUp(t, pid) // or the key could come when the shell has the terminal
	began := time.Now()
	must(t, syscall.Kill(pid, syscall.SIGTERM))
	tim.sees(patience, `\* `+at("Alex")+` left$`)
	if before, after := alex.contents("before"), alex.contents("after"); after != before {
		t.Errorf("the mode was\n%s\nand is\n%s", before, after)
	}
	if took := time.Since(began); took > leaving {
		t.Errorf("leaving took %v", took)
	}
	alex.last("$") // and not behind the row
}

// waitHeldUp waits until a process stands in one and the same write to its standard
// output. It doesn't where the system tells nothing of that.
func waitHeldUp(t *testing.T, pid int) {
	t.Helper()
	writes := func() (at string, err error) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
		for _, task := range tasks {
			var b []byte
			if b, err = os.ReadFile(task); bytes.HasPrefix(b, []byte("1 0x1 ")) || bytes.HasPrefix(b, []byte("64 0x1 ")) { // as x86 and ARM count
				return string(b), nil
			}
		}
		return "", err
	}
	if _, err := os.Stat("/proc/self/syscall"); err != nil {
		return
	}
	for began := time.Now(); time.Since(began) < patience; {
		before, err := writes()
		if errors.Is(err, os.ErrPermission) {
			return
		}
		time.Sleep(20 * time.Millisecond)
		if after, _ := writes(); before != "" && after == before {
			return
		}
	}
	t.Fatal("nothing holds up the output")
}

func TestHangUpLeavesInOrder(t *testing.T) {
	t.Parallel()
	tim, alex := atTerminal(t)
	alex.tmux("kill-session") // as when a window is closed
	tim.sees(patience, `\* `+at("Alex")+` left$`)
	if tim.count(`lost$`) != 0 {
		t.Error("Alex is shown as lost")
	}
}

// TestNoEscapesButOnATerminal: nor on a terminal that may not understand
// them, or whose mode can't be set. There the terminal's own line is the input.
func TestNoEscapesButOnATerminal(t *testing.T) {
	t.Parallel()
	endless := file(t, "stty", "#!/bin/sh\nsleep 60\n")
	must(t, os.Chmod(endless, 0o700))
	for _, c := range []struct {
		name, command string
		written       string // where to look
	}{
		{"to a file", "p2pchat > $DIR/chat.log", "chat.log"},
		{"a dumb terminal", "TERM=dumb p2pchat", "written"},
		{"no TERM", "TERM= p2pchat", "written"},
		{"no stty", "PATH=/nowhere p2pchat", "written"},
		{"a stty that never returns", "PATH=" + filepath.Dir(endless) + ":$PATH p2pchat", "written"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			tim := chat(t, port, []string{"Tim"})
			alex := terminalNode(t, port, "Alex", c.command)
			tim.sees(patience, at("Alex")+` joined$`)
			alex.enters("from the keyboard")
			tim.sees(patience, at("Alex")+`: from the keyboard$`)
			tim.say("from a pipe")
			tim.sees(patience, `: from a pipe$`)
			alex.presses("C-d")
			if status := alex.ended(); status != "0" {
				t.Errorf("exit status %s, want 0", status)
			}
			tim.sees(patience, `\* `+at("Alex")+` left$`)
			said := regexp.MustCompile(` Alex \(me\): from the keyboard\r?\n`)
			var written []byte
			eventually(t, patience, func() string { // tmux writes on when the program has ended
				written = noError(os.ReadFile(alex.file(c.written)))
				return fmt.Sprintf("what was written is %q", written)
			}, func() bool { return said.Match(written) })
			if bytes.IndexByte(written, 0x1b) >= 0 {
				t.Errorf("what was written is %q", written)
			}
			for l := range strings.SplitSeq(strings.TrimSuffix(string(written), "\n"), "\n") {
				if c.written == "chat.log" && (!grammar.MatchString(l) || unclean(l) != "") {
					t.Errorf("line outside the grammar: %q", l)
				}
			}
			if strings.ContainsRune(tim.out.String()+tim.err.String(), '\x1b') {
				t.Error("Tim prints an escape")
			}
		})
	}
}
