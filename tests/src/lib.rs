//! Tests from outside.
#[cfg(test)]
mod crash;
#[cfg(test)]
mod process;
#[cfg(test)]
mod scaffold;
