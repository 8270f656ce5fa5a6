//! The QUIC session an edge app holds with its outstation.
