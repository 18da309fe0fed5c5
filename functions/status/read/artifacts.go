package read

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"path"
	"strconv"

	"modulate/internal/api"
	"modulate/internal/blob"
)

// artifacts lists what the script left.
func (rd *reader) artifacts(r *api.Request) (api.Answer, error) {
	rec, err := rd.Own(r.Context(), r.Caller, r.PathValue("id"))
	if err != nil {
		return api.Answer{}, err
	}
	list, err := rd.Artifacts(r.Context(), rec)
	if list == nil {
		list = []api.Artifact{}
	}
	return api.Answer{Body: api.Artifacts{Items: list}}, err
}

// artifact gives out one of them, or the URL where the blobs have one.
func (rd *reader) artifact(r *api.Request) (api.Answer, error) {
	rec, err := rd.Own(r.Context(), r.Caller, r.PathValue("id"))
	if err != nil {
		return api.Answer{}, err
	}
	list, err := rd.Artifacts(r.Context(), rec)
	if err != nil {
		return api.Answer{}, err
	}
	name := r.PathValue("name")
	for i, a := range list {
		if a.Name == name {
			return rd.content(r, blob.ArtifactKey(rec.ID, rec.Outcome.Version, i), a)
		}
	}
	return api.Answer{}, api.Fail(blob.ErrNotFound, "name", "%s left no artifact %q", rec.ID, name)
}

func (rd *reader) content(r *api.Request, key string, a api.Artifact) (api.Answer, error) {
	signed, err := rd.Engine.Blobs.Sign(r.Context(), http.MethodGet, blob.Info{Key: key, Size: a.Size})
	if err == nil {
		return api.Answer{Status: http.StatusTemporaryRedirect, Location: signed.URL.String()}, nil
	}
	if !errors.Is(err, blob.ErrNoURL) {
		return api.Answer{}, fmt.Errorf("signing %s: %w", key, err)
	}
	src, err := rd.Engine.Blobs.Get(r.Context(), key, 0)
	if errors.Is(err, blob.ErrNotFound) {
		return api.Answer{}, api.Fail(blob.ErrNotFound, "name", "the artifact %q is not kept any more", a.Name)
	}
	if err != nil {
		return api.Answer{}, fmt.Errorf("reading %s: %w", key, err)
	}
	h := http.Header{}
	h.Set("Content-Length", strconv.FormatInt(a.Size, 10))
	h.Set("Content-Disposition", disposition(a.Name))
	return api.Answer{Header: h, Raw: src}, nil
}

// disposition makes browsers save a file rather than show it.
func disposition(name string) string {
	if d := mime.FormatMediaType("attachment", map[string]string{"filename": path.Base(name)}); d != "" {
		return d
	}
	return "attachment"
}
