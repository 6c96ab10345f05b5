//! Waiting: for the disk, for room, for something to look at, for the end.

use std::sync::atomic::Ordering;

use crate::id::Seq;

use super::{Dead, Ledger, Mark, WAITING_BYTES_MAX};

impl Ledger {
    /// Flush, and wait until `seq` is durable.
    pub async fn durable(&self, seq: Seq) -> Result<(), Dead> {
        if self.mark.borrow().durable < seq {
            self.flush();
        }
        self.reached(seq).await
    }

    /// Wait until `seq` is durable, whoever flushes it.
    pub async fn reached(&self, seq: Seq) -> Result<(), Dead> {
        let mut mark = self.mark.subscribe();
        let mark = mark
            .wait_for(|mark| mark.durable >= seq || mark.dead.is_some())
            .await
            .expect("the sender lives as long as the ledger");
        match &mark.dead {
            _ if mark.durable >= seq => Ok(()),
            Some(dead) => Err(dead.clone()),
            None => unreachable!("the wait ends for one of the two"),
        }
    }

    /// Everything appended so far, made durable.
    pub async fn settle(&self) -> Result<Seq, Dead> {
        self.flush();
        let last = self.look(|state| state.last);
        self.reached(last).await?;
        Ok(last)
    }

    pub fn mark(&self) -> Mark {
        self.mark.borrow().clone()
    }

    /// Wait until it takes no more entries.
    pub async fn died(&self) -> Dead {
        let mut mark = self.mark.subscribe();
        let mark = mark
            .wait_for(|mark| mark.dead.is_some())
            .await
            .expect("the sender lives as long as the ledger");
        mark.dead.clone().expect("the wait ended for it")
    }

    /// Wait until few enough bytes wait for the flush.
    pub async fn room(&self) -> Result<(), Dead> {
        if self.lock().waiting_bytes() <= WAITING_BYTES_MAX {
            return Ok(());
        }
        self.settle().await.map(|_| ())
    }

    /// Wait for something to look at: an append since the last call.
    pub async fn changed(&self) {
        while !self.dirty.swap(false, Ordering::AcqRel) {
            self.changed.notified().await;
        }
    }
}
