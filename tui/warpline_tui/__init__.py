"""The terminal screen: views asked off its thread, pages that draw what they gave; never a store, never a wait."""
