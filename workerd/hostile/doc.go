// Package hostile runs scripts that mean harm, each in a sandbox of this
// machine under the real worker, and looks from the host's side at what came of
// it: at canaries that none may reach, at processes that none may leave, at a
// neighbour that goes on. What the script itself says counts only where it says
// that something worked.
package hostile
