package api

import (
	"net"
	"net/http"
	"strings"
)

// Loopback lets through what is meant for a server on the loopback address:
// requests whose Host is a loopback one (a page of another site may have
// pointed its own name here) and, where a browser sends them, whose Origin and
// Sec-Fetch-Site are this very server: an image of another page has no Origin,
// and would be sent a worker's messages. ErrHost, ErrOrigin.
func Loopback(next http.Handler) http.Handler {
	s := &Service{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !loopbackHost(r.Host) {
			s.fail(w, r, Fail(ErrHost, "Host", "%q is not this server: use localhost or 127.0.0.1", r.Host))
			return
		}
		if o := r.Header.Get("Origin"); o != "" && o != "http://"+r.Host {
			s.fail(w, r, Fail(ErrOrigin, "Origin", "a page of %s may not use this server", o))
			return
		}
		if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
			s.fail(w, r, Fail(ErrOrigin, "Sec-Fetch-Site", "a page of another server may not use this one"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// loopbackHost reports whether a Host header names this machine to itself,
// whatever the port: it may have been forwarded.
func loopbackHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	ip := net.ParseIP(name)
	return strings.EqualFold(name, "localhost") || ip != nil && ip.IsLoopback()
}
