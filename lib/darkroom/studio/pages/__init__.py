"""The pages, a module each with one function: `page(settings)` draws it."""
