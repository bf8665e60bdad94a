"""Compare experiments: tables, Markdown, json and a page with plots."""
