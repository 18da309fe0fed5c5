package api

import (
	"net/http"
	"strings"
)

// NotServed answers what no endpoint does: 405 for a path of the API, 404 for
// any other. Both handlers serve it under "/".
func (s *Service) NotServed() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		allow := allowed(r.URL.Path)
		if allow == "" {
			s.fail(w, r, Fail(ErrRoute, "", "there is no %s here", r.URL.Path))
			return
		}
		w.Header().Set("Allow", allow)
		s.fail(w, r, Fail(ErrMethod, "", "%s knows %s, not %s", r.URL.Path, allow, r.Method))
	})
}

// allowed returns the methods of a path of the API, or "" if it is none.
func allowed(path string) string {
	rest, ok := strings.CutPrefix(path, "/v1/")
	if !ok {
		return ""
	}
	parts := strings.SplitN(rest, "/", 4)
	switch parts[0] {
	case "machines":
		return only(len(parts) == 1, "GET, HEAD")
	case "blobs":
		if len(parts) == 1 {
			return "POST"
		}
		return only(len(parts) == 2, "PUT")
	case "promises":
		return allowedPromise(parts[1:])
	}
	return ""
}

func allowedPromise(parts []string) string {
	switch len(parts) {
	case 0:
		return "GET, HEAD, POST"
	case 1:
		return "GET, HEAD"
	}
	switch parts[1] {
	case "cancel":
		return only(len(parts) == 2, "POST")
	case "logs":
		return only(len(parts) == 2, "GET, HEAD")
	case "artifacts":
		return "GET, HEAD"
	}
	return ""
}

func only(ok bool, methods string) string {
	if !ok {
		return ""
	}
	return methods
}
