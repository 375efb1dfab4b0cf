//go:build js && wasm

package main

import (
	"fmt"
	"reflect"
	"strings"
)

// value turns a report into what syscall/js makes an object of, by its JSON tags: encoding/json would make the program an eighth larger.
func value(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return value(v.Elem())
	case reflect.Struct:
		out := map[string]any{}
		for i := range v.NumField() {
			name, option, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			if option == "omitempty" && v.Field(i).IsZero() {
				continue
			}
			out[name] = value(v.Field(i))
		}
		return out
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = value(v.Index(i))
		}
		return out
	case reflect.String:
		return v.String()
	case reflect.Bool:
		return v.Bool()
	case reflect.Uint64:
		return float64(v.Uint())
	case reflect.Int64:
		return float64(v.Int())
	}
	panic(fmt.Sprintf("a report has no %s", v.Type()))
}
