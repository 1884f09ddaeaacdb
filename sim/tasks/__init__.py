"""The suites: `tabletop` (ours, needs no renderer) and `metaworld` (third party)."""
