"""Great Expectations on each clean day: suites, verdicts, Data Docs, drift."""
