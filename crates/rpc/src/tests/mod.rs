mod simulation;
mod stubs;
