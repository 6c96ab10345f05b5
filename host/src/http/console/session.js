// One session, open in the page: read to its end, then followed live. Knows no elements; tells whoever listens.

import { mayPass, path, pause, say, wait } from './api.js'
import * as who from './credentials.js'
import { follow } from './events.js'
import { before, fold, next, running, seq } from './fold.js'

/** Items of the conversation that are there at first, and that each look further back brings. */
const ITEMS = 40

export class Session extends EventTarget {
  constructor(id) {
    super()
    this.id = id
    this.state = null
    this.slots = null
    this.line = 'opening'
    /** The offset that the events in memory begin after. */
    this.from = null
    this.events = []
    this.stop = new AbortController()
  }

  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }))
  }

  ask(method, parts, options) {
    return who.about(this.id, method, path('sessions', this.id) + parts, { signal: this.stop.signal, ...options })
  }

  /** Read, then follow until closed. Goes on by itself through whatever may pass. */
  async run() {
    const signal = this.stop.signal
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      try {
        await this.read()
        break
      } catch (error) {
        if (signal.aborted) return
        if (!mayPass(error)) return this.stand('over', error)
        this.stand('again', error)
        await wait(pause(attempt, error), signal)
      }
    }
    if (signal.aborted) return
    this.look()
    this.isTorn = false
    await follow({
      offset: this.state.offset ?? '-1',
      signal,
      staleAt: () => who.staleAt(this.id),
      open: (offset, line) => who.asked(this.id, 'GET', `${path('sessions', this.id)}/events?offset=${offset}`,
        { headers: { accept: 'text/event-stream' }, signal: line }),
      heard: (events, offset) => this.heard(events, offset),
      standing: (state, error) => {
        // The server has less than it had, restored from a copy perhaps: what it has now is what there is.
        this.isTorn = state === 'over' && error?.code?.startsWith('offset_')
        this.stand(this.isTorn ? 'again' : state, error)
      },
    })
    if (this.isTorn && !signal.aborted) return this.run()
  }

  close() {
    this.stop.abort()
    clearTimeout(this.looking)
  }

  stand(state, error = null) {
    if (this.line === state && !error) return
    this.line = state
    this.problem = error
    this.tell('line', { state, text: error ? say(error) : '' })
    if (state === 'live') this.look()
  }

  /**
   * The newest items and all that came after, from events alone. The transcript says where they begin. What is shown is
   * always folded from events: there is no second way for a word to get here.
   */
  async read() {
    this.seed = await this.ask('GET', '')
    const window = await this.ask('GET', `/transcript?limit=${ITEMS}`)
    this.from = window.before && window.items.length ? before(window.items[0].offset) : '-1'
    const { questions } = await this.ask('GET', '/questions')
    this.seed.questions = this.from === '-1' ? [] : questions.filter(it => it.question <= seq(this.from))
    const { events, offset } = await this.pages(this.from)
    this.events = events
    this.refold()
    this.state.offset = offset
    this.tell('read')
  }

  /** All events after a place, up to another one or to the end. */
  async pages(from, until = null) {
    const events = []
    let offset = from
    while (true) {
      const page = await this.ask('GET', `/events?offset=${offset}`)
      offset = page.offset
      for (const event of page.events) {
        if (until !== null && event.offset > until) return { events, offset: until }
        events.push(event)
      }
      if (page.up_to_date || (until !== null && offset >= until)) return { events, offset }
    }
  }

  refold() {
    const offset = this.state?.offset
    this.state = fold(this.events, this.seed)
    if (offset) this.state.offset = offset
  }

  heard(events, offset) {
    for (const event of events) {
      this.events.push(event)
      next(this.state, event)
    }
    this.state.offset = offset
    this.tell('events', events)
    if (events.some(event => MOVES_SLOTS.has(event.kind))) this.look()
  }

  hasOlder() {
    return this.from !== null && this.from !== '-1'
  }

  /** Bring older items. What is live goes on meanwhile. */
  async older() {
    if (!this.hasOlder() || this.isReadingBack) return
    this.isReadingBack = true
    try {
      const end = this.from
      const first = this.state.items.find(item => item.type === 'message' || item.type === 'reply')
      const window = await this.ask('GET', `/transcript?limit=${ITEMS}&before=${first.offset}`)
      const from = window.before && window.items.length ? before(window.items[0].offset) : '-1'
      const { events } = await this.pages(from, end)
      this.from = from
      this.seed.questions = from === '-1' ? [] : this.seed.questions.filter(it => it.question <= seq(from))
      this.events = [...events, ...this.events]
      this.refold()
      this.tell('older')
    } finally {
      this.isReadingBack = false
    }
  }

  /** Look at the slots soon. Locks are no events, so while turns run they are looked at again and again. */
  look(ms = 120) {
    clearTimeout(this.looking)
    this.looking = setTimeout(async () => {
      if (this.stop.signal.aborted || this.line === 'over') return
      try {
        const { slots } = await this.ask('GET', '/slots')
        this.slots = slots
        this.tell('slots', slots)
      } catch {
        // Whether the server is there is the reader's to say. The next event asks again.
      }
      if (this.state && running(this.state).length && !document.hidden) this.look(1500)
    }, ms)
  }

  slot(name) {
    return this.ask('GET', `/slots/${encodeURIComponent(name)}`)
  }

  /** Answer a question: `{text}` or `{choice}`. The key makes trying again the same answer. */
  answer(question, answer, key) {
    const author = who.author()
    const body = { ...answer, ...(author ? { author } : {}) }
    return this.ask('POST', `/questions/${question}`, { body, headers: { 'idempotency-key': key } })
  }

  interrupt(agent) {
    return this.ask('POST', '/interrupt', { body: { agent } })
  }

  async resume(agent) {
    await who.byKey('POST', path('sessions', this.id, 'agents', agent, 'resume'), { body: { author: who.author() } })
  }
}

const MOVES_SLOTS = new Set(['slot-committed', 'turn-started', 'turn-ended', 'message-received'])
