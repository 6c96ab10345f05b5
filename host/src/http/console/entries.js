// A session's journal in memory: its entries, which turns were open at each, and the state after each of them.

import * as who from './credentials.js'
import { path } from './api.js'
import { next, seq, start } from './fold.js'

/** A page that reads on for ever would take all memory there is: from here on it asks. */
const ENTRIES_MAX = 60_000
/** Turns side by side that a row has room for. */
const LANES = 5

export class Entries {
  constructor(session) {
    this.session = session
    this.all = []
    /** For each entry: the turns that are open there, by lane. */
    this.lanes = []
    this.open = []
    this.offset = '-1'
    this.isWhole = false
    this.count = new Map()
    /** The fold of all of them: who has a voice, so that nobody's colour changes on the way. */
    this.whole = start()
    this.rewind()
  }

  /** Read on, to the end or to the most that is kept. Answers whether anything came. */
  async read(heard = () => {}, signal = undefined, max = ENTRIES_MAX) {
    const began = this.all.length
    do {
      const page = await who.byKey('GET', `${path('sessions', this.session)}/journal?offset=${this.offset}`, { signal })
      for (const entry of page.entries) this.add(entry)
      this.offset = page.offset
      this.isWhole = page.up_to_date
      heard(this.all.length)
    } while (!this.isWhole && this.all.length - began < max)
    return this.all.length > began
  }

  add(entry) {
    this.all.push(entry)
    next(this.whole, entry)
    this.count.set(entry.kind, (this.count.get(entry.kind) ?? 0) + 1)
    if (entry.kind === 'turn-started') {
      const free = this.open.findIndex(turn => turn === null)
      if (free >= 0) this.open[free] = entry.turn
      else if (this.open.length < LANES) this.open.push(entry.turn)
    }
    const marks = this.open.map(turn => turn && {
      turn,
      mark: turn !== entry.turn ? 'on' : entry.kind === 'turn-started' ? 'begins' : entry.kind === 'turn-ended' ? 'ends' : 'here',
    })
    this.lanes.push(marks)
    if (entry.kind === 'turn-ended') {
      const lane = this.open.indexOf(entry.turn)
      if (lane >= 0) this.open[lane] = null
      while (this.open.length && this.open.at(-1) === null) this.open.pop()
    }
  }

  rewind() {
    this.state = start()
    this.state.voices = this.whole.voices
    this.at = -1
  }

  /** The state as it stood after an entry, and the items that this entry touched. */
  stood(at) {
    if (at < this.at) this.rewind()
    while (this.at < at) {
      this.state.touched.clear()
      this.at += 1
      next(this.state, this.all[this.at])
    }
    return this.state
  }

  /** The place of the entry with this number, or of the last before it. */
  find(number) {
    let [low, high] = [0, this.all.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if (seq(this.all[middle].offset) <= number) low = middle + 1
      else high = middle
    }
    return Math.max(0, low - 1)
  }
}
