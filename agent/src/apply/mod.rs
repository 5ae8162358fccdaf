//! apply: executes steps in order; decides nothing.
