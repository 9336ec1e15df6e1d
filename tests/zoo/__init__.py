"""Programs of the structures that Pyro's examples have, each held against totals by hand."""
