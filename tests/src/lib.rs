//! End-to-end suites of CBFS.
