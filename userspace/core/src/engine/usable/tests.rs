//! The backup rule, case by case.
