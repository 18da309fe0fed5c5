package api

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// strict is how requests are read. Duplicate names, invalid UTF-8 and data
// after the value are refused by default.
var strict = json.JoinOptions(json.RejectUnknownMembers(true))

// Decode reads the JSON body of r into v. ErrMedia, ErrTooLarge, or ErrInvalid
// with the position: fields that v does not have, duplicate names, more than
// [MaxDepth] levels, anything after the value, invalid UTF-8.
func Decode(r *http.Request, v any) error {
	if err := wantJSON(r.Header.Get("Content-Type")); err != nil {
		return err
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	return decode(body, v)
}

func wantJSON(contentType string) error {
	if contentType == mediaJSON {
		return nil
	}
	media, params, err := mime.ParseMediaType(contentType)
	charset := params["charset"]
	if err != nil || media != mediaJSON || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return Fail(ErrMedia, "Content-Type", "the body is %q: send JSON as %s", contentType, mediaJSON)
	}
	return nil
}

func readBody(r *http.Request) ([]byte, error) {
	if r.ContentLength > MaxBody {
		return nil, Fail(ErrTooLarge, "body", "the request is %d bytes: a JSON body has at most %d", r.ContentLength, MaxBody)
	}
	if n := r.ContentLength; n > 0 {
		body := make([]byte, n)
		if _, err := io.ReadFull(r.Body, body); err != nil {
			return nil, Invalid("body", "the body ended before the %d bytes of its Content-Length: %v", n, err)
		}
		return body, nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	if err != nil {
		return nil, Invalid("body", "the body broke off after %d bytes: %v", len(body), err)
	}
	if len(body) > MaxBody {
		return nil, Fail(ErrTooLarge, "body", "the request is over %d bytes: a JSON body has at most that", MaxBody)
	}
	return body, nil
}

func decode(body []byte, v any) error {
	if len(body) == 0 {
		return Invalid("body", "the body is empty: send a JSON object")
	}
	if at, deep := tooDeep(body); deep {
		return Invalid("body", "more than %d levels of nesting at byte %d", MaxDepth, at)
	}
	err := json.Unmarshal(body, v, strict)
	if err == nil {
		return nil
	}
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		return Invalid(fieldOf(syntax.JSONPointer), "%s", syntaxText(syntax))
	}
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		return Invalid(fieldOf(semantic.JSONPointer), "%s", semanticText(semantic))
	}
	return Invalid("body", "%v", err)
}

// tooDeep finds the first byte that opens a level beyond MaxDepth. It need not
// know JSON but for its strings.
func tooDeep(body []byte) (at int, deep bool) {
	depth, quoted := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > MaxDepth {
				return i, true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return 0, false
}

func syntaxText(e *jsontext.SyntacticError) string {
	if errors.Is(e.Err, jsontext.ErrDuplicateName) {
		return fmt.Sprintf("%.100q is there twice, again at byte %d: give it once", e.JSONPointer.LastToken(), e.ByteOffset)
	}
	return fmt.Sprintf("not JSON at byte %d: %v", e.ByteOffset, e.Err)
}

func semanticText(e *json.SemanticError) string {
	switch {
	case errors.Is(e.Err, json.ErrUnknownName):
		return fmt.Sprintf("unknown field %.100q at byte %d", e.JSONPointer.LastToken(), e.ByteOffset)
	case e.JSONKind != 0 && e.GoType != nil:
		value := kindName(e.JSONKind)
		if len(e.JSONValue) > 0 && len(e.JSONValue) <= 40 {
			value = string(e.JSONValue)
		}
		return fmt.Sprintf("want %s at byte %d, not %s", typeName(e.GoType), e.ByteOffset, value)
	default:
		return fmt.Sprintf("at byte %d: %v", e.ByteOffset, e.Err)
	}
}

func kindName(k jsontext.Kind) string {
	switch k {
	case '{', '}':
		return "an object"
	case '[', ']':
		return "an array"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case 'n':
		return "null"
	default:
		return "true or false"
	}
}

func typeName(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Int64, reflect.Int:
		return "a whole number"
	case reflect.Uint32, reflect.Uint64:
		return "a whole number that is not negative"
	default:
		return "an object"
	}
}

// fieldOf writes a JSON pointer as people write fields: files.0.name.
func fieldOf(p jsontext.Pointer) string {
	var names []string
	for name := range p.Tokens() {
		names = append(names, name)
	}
	if field := fmt.Sprintf("%.100s", strings.Join(names, ".")); field != "" {
		return field
	}
	return "body"
}
