//! System V and POSIX message objects: private to a world, shared among its guests.

use super::Class::Node;
use super::{Row, call, nr};

const SHARED: &str = "shared among the guests of one world";

pub(super) const ROWS: &[Row] = &[
    call(nr::SHMGET, Node).note(SHARED),
    call(nr::SHMAT, Node).note(SHARED),
    call(nr::SHMCTL, Node).note(SHARED),
    call(nr::SHMDT, Node).note(SHARED),
    call(nr::SEMGET, Node).note(SHARED),
    call(nr::SEMOP, Node).note(SHARED),
    call(nr::SEMCTL, Node).note(SHARED),
    call(nr::SEMTIMEDOP, Node).note(SHARED),
    call(nr::MSGGET, Node).note(SHARED),
    call(nr::MSGSND, Node).note(SHARED),
    call(nr::MSGRCV, Node).note(SHARED),
    call(nr::MSGCTL, Node).note(SHARED),
    call(nr::MQ_OPEN, Node).note(SHARED),
    call(nr::MQ_UNLINK, Node).note(SHARED),
    call(nr::MQ_TIMEDSEND, Node).note(SHARED),
    call(nr::MQ_TIMEDRECEIVE, Node).note(SHARED),
    call(nr::MQ_NOTIFY, Node).note(SHARED),
    call(nr::MQ_GETSETATTR, Node).note(SHARED),
];
