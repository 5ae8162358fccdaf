//! verify: observes again and compares with what the plan promised.
