mod lanes;
mod simulation;
mod world;
