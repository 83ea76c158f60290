"""The page that shows a generator in any browser."""
