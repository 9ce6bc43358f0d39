"""The store's tests, which mirror the package."""
