package store

import (
	"reflect"
	"testing"

	"modulate/internal/promise"
)

// fill gives every field that v reaches a value of its own.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n)
		fill(value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.String:
		v.SetString(string(rune('a' + *n%26)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8:
		v.SetUint(uint64(*n%250) + 1)
	default:
		if v.CanInt() {
			v.SetInt(int64(*n))
		} else {
			v.SetUint(uint64(*n))
		}
	}
}

// full returns a record with no zero field.
func full() promise.Record {
	var rec promise.Record
	n := 0
	fill(reflect.ValueOf(&rec).Elem(), &n)
	return rec
}

// shared returns the path of the first slice or map that a and b share.
func shared(path string, a, b reflect.Value) string {
	switch a.Kind() {
	case reflect.Struct:
		for i := range a.NumField() {
			if p := shared(path+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i)); p != "" {
				return p
			}
		}
	case reflect.Slice:
		if a.Pointer() == b.Pointer() {
			return path
		}
		for i := range a.Len() {
			if p := shared(path, a.Index(i), b.Index(i)); p != "" {
				return p
			}
		}
	case reflect.Map:
		if a.Pointer() == b.Pointer() {
			return path
		}
	}
	return ""
}

// A field that is added to the record and forgotten in Clone shows here.
func TestCloneSharesNothing(t *testing.T) {
	rec := full()
	got := Clone(rec)
	if !reflect.DeepEqual(got, rec) {
		t.Errorf("the clone is another record:\n%+v\n%+v", got, rec)
	}
	if path := shared("Record", reflect.ValueOf(rec), reflect.ValueOf(got)); path != "" {
		t.Errorf("%s is shared", path)
	}
	empty := promise.Record{Attempts: []promise.Attempt{}, Call: promise.Call{Input: promise.Input{Env: map[string]string{}}}}
	if got := Clone(empty); !reflect.DeepEqual(got, promise.Record{}) {
		t.Errorf("empty stays empty, not nil: %+v", got)
	}
}
