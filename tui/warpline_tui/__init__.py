"""The terminal screen: one frozen snapshot a refresh, drawn; never a store, never a wait."""
