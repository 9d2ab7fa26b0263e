//! pktgen
