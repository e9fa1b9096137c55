"""The text console behind ConIn and ConOut: screen state, keyboard decoding, glyphs."""
