"""Pictures of results: a run's contact sheets and the page that shows them."""
