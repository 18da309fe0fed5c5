// A module of its own: who builds Modulate need not have the SDK, and no
// registry does. install.sh is told where its source is.
module features

go 1.26.0

require github.com/resonatehq/resonate-sdk-go v0.0.0
