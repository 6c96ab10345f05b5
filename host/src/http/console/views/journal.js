// The journal as a timeline that is stepped through: at each entry the conversation and the slots as they stood there.

import { path, say } from '../api.js'
import { button, el, setText, show } from '../dom.js'
import * as who from '../credentials.js'
import { Entries } from '../entries.js'
import { running, seq } from '../fold.js'
import { clockMs, cut, detail } from '../words.js'
import { Conversation, voiceClass } from './conversation.js'
import { Rows } from './rows.js'
import { Score } from './score.js'
import { Slots } from './slots.js'

/** Items of the conversation that stand beside an entry. */
const ITEMS = 25
/** Longer silences are cut when the journal is played. */
const SILENCE_MS = 1200
/** How much of what an agent hears is shown while it says nothing. */
const HEARD_CHARS = 400

export class Journal {
  constructor(session, at) {
    this.session = session
    this.wanted = at ? Number(String(at).split('_')[0]) : null
    this.entries = new Entries(session.id)
    this.visible = []
    this.hidden = new Set()
    this.at = -1
    this.stop = new AbortController()
    this.build()
    this.onEvents = () => this.readSoon()
  }

  build() {
    const step = by => () => { this.pause(); this.step(by) }
    this.playButton = button('Play', () => this.toggle(), { class: 'play' })
    this.speed = el('select', { 'aria-label': 'Speed' }, ...[1, 4, 16].map(times => el('option', { value: times }, `${times}×`)))
    this.speed.value = '4'
    this.range = el('input', { type: 'range', min: 0, max: 0, value: 0, 'aria-label': 'Entry', on: { input: () => {
      this.pause()
      this.go(this.visible[Number(this.range.value)])
    } } })
    this.where = el('p.where', {}, 'Reading…')
    this.kinds = el('div.kinds', { role: 'group', 'aria-label': 'Kinds of entries' })
    this.kindsLabel = el('summary', {}, 'All kinds')
    this.menu = el('details.filter', { on: {
      keydown: event => { if (event.key === 'Escape' && this.menu.open) { this.menu.open = false; this.kindsLabel.focus() } },
      focusout: event => { if (event.relatedTarget && !this.menu.contains(event.relatedTarget)) this.menu.open = false },
    } }, this.kindsLabel, this.kinds)
    this.further = button('Read further', () => this.read(), { class: 'quiet', hidden: true })
    this.rows = new Rows(this.entries, { choose: at => { this.pause(); this.go(at) }, key: event => this.key(event) })
    this.score = new Score(this.entries, { choose: at => { this.pause(); this.go(at) } })
    this.conversation = new Conversation({ own: () => who.author() })
    this.earlier = el('p.hint', { hidden: true })
    this.heard = el('ul.items.heard')
    this.scroll = el('div.stood-scroll', { tabindex: 0, role: 'region', 'aria-label': 'Conversation at this entry' },
      this.earlier, this.conversation.list, this.heard)
    this.slots = new Slots({ content: slot => this.document(slot), empty: 'No slots at this entry.' })
    this.json = el('pre.json', { tabindex: 0, 'aria-label': 'The entry', role: 'region' })
    this.node = el('div.journal', {},
      el('div.transport', {},
        el('div.row.buttons', { role: 'group', 'aria-label': 'Step' },
          button('⏮\ufe0e', step(-Infinity), { 'aria-label': 'First entry' }), button('◀\ufe0e', step(-1), { 'aria-label': 'Entry before' }),
          this.playButton,
          button('▶\ufe0e', step(1), { 'aria-label': 'Next entry' }), button('⏭\ufe0e', step(Infinity), { 'aria-label': 'Last entry' }), this.speed),
        this.where,
        this.menu),
      this.score.node, el('div.range', {}, this.range),
      el('div.columns', {},
        el('div.left', {}, this.rows.node, this.further),
        el('div.stood', {},
          el('h2', {}, 'As it stood'), this.scroll,
          el('div.stood-part', {}, el('h2', {}, 'Slots'), this.slots.node),
          el('div.stood-part', {}, el('h2', {}, 'The entry'), this.json))))
  }

  close() {
    this.rest()
    this.stop.abort()
    this.score.close()
  }

  /** In sight: follow what is written. */
  wake() {
    if (this.isAwake) return
    this.isAwake = true
    this.session.addEventListener('events', this.onEvents)
    this.read()
  }

  rest() {
    this.isAwake = false
    this.pause()
    clearTimeout(this.soon)
    this.session.removeEventListener('events', this.onEvents)
  }

  readSoon() {
    clearTimeout(this.soon)
    this.soon = setTimeout(() => this.read(), 300)
  }

  async read() {
    if (this.isReading) return void (this.isStale = true)
    this.isReading = true
    const isFirst = this.at < 0
    const wasAtEnd = this.at === this.visible.at(-1)
    try {
      do {
        this.isStale = false
        await this.entries.read(isFirst ? count => setText(this.where, `Reading… ${count.toLocaleString()} entries`) : undefined, this.stop.signal)
      } while (this.isStale && this.entries.isWhole)
      this.filter()
      show(this.further, !this.entries.isWhole)
      if (isFirst && this.entries.all.length) this.go(this.wanted === null ? this.entries.all.length - 1 : this.entries.find(this.wanted))
      else if (wasAtEnd && !this.timer) this.go(this.visible.at(-1))
      else this.mark()
    } catch (error) {
      if (!this.stop.signal.aborted) setText(this.where, error.status === 403 ? 'The journal needs a key with the scope inspect.' : say(error))
    } finally {
      this.isReading = false
    }
  }

  /** Which entries are to be seen. */
  filter() {
    const { all, count } = this.entries
    this.visible = []
    all.forEach((entry, at) => { if (!this.hidden.has(entry.kind)) this.visible.push(at) })
    const boxes = [...count.keys()].sort().map(kind => {
      const box = el('input', { type: 'checkbox', checked: !this.hidden.has(kind), on: { change: () => {
        if (box.checked) this.hidden.delete(kind)
        else this.hidden.add(kind)
        this.filter()
        this.go(this.nearest())
      } } })
      return el('label', {}, box, `${kind} `, el('span.hint', {}, count.get(kind).toLocaleString()))
    })
    const only = (label, wanted) => button(label, () => {
      this.hidden = new Set([...count.keys()].filter(kind => !wanted(kind)))
      this.filter()
      this.go(this.nearest())
      this.kindsLabel.focus()
    }, { class: 'quiet' })
    // The boxes are made anew only when there are others: who is among them stays there.
    const key = [...count].join(' ') + [...this.hidden].join(' ')
    if (this.kindsKey !== key && !this.kinds.contains(document.activeElement)) {
      this.kinds.replaceChildren(only('All', () => true), only('What people saw', kind => SEEN.has(kind)), ...boxes)
      this.kindsKey = key
    }
    const shown = count.size - [...this.hidden].filter(kind => count.has(kind)).length
    setText(this.kindsLabel, shown === count.size ? 'All kinds' : `${shown} of ${count.size} kinds`)
    this.range.max = String(Math.max(0, this.visible.length - 1))
    this.rows.set(this.visible)
    this.score.set(this.visible)
  }

  /** The entry to be seen that is nearest to the current one. */
  nearest() {
    const after = this.visible.find(at => at >= this.at)
    return after ?? this.visible.at(-1) ?? -1
  }

  step(by) {
    if (!this.visible.length) return
    const position = Math.max(0, Math.min(this.visible.length - 1, this.position() + by))
    this.go(this.visible[position])
  }

  position() {
    const { visible } = this
    let [low, high] = [0, visible.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if (visible[middle] < this.at) low = middle + 1
      else high = middle
    }
    return Math.min(low, Math.max(0, visible.length - 1))
  }

  key(event) {
    const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, PageDown: 20, PageUp: -20, Home: -Infinity, End: Infinity }
    if (event.key === ' ') this.toggle()
    else if (event.key in steps && !event.ctrlKey && !event.metaKey && !event.altKey) {
      this.pause()
      this.step(steps[event.key])
    } else return
    event.preventDefault()
  }

  go(at) {
    if (at === undefined || at < 0) return
    this.at = at
    const entry = this.entries.all[at]
    const state = this.entries.stood(at)
    this.mark()
    setText(this.json, JSON.stringify(entry, null, 2))
    const first = Math.max(0, state.items.length - ITEMS)
    this.conversation.render(state, { first })
    show(this.earlier, first > 0)
    setText(this.earlier, `${first.toLocaleString()} earlier items are not shown here.`)
    for (const node of this.conversation.list.querySelectorAll('.now')) node.classList.remove('now')
    for (const key of state.touched) this.conversation.nodes.get(key)?.node.classList.add('now')
    this.hear(state)
    this.slots.render([...state.slots.values()].map(slot => ({
      slot: slot.slot, version: slot.version, state: slot.lockedBy ? 'locked' : 'idle', locked_by: slot.lockedBy,
      written_at: slot.time, by: slot.by, bytes: slot.bytes, content: slot.content,
    })))
    this.scroll.scrollTop = this.scroll.scrollHeight
    clearTimeout(this.noting)
    this.noting = setTimeout(() => {
      if (!this.isAwake) return
      const place = new URLSearchParams({ session: this.session.id, view: 'journal', at: seq(entry.offset) })
      history.replaceState(null, '', `#${place}`)
    }, 400)
  }

  /** Where we are, in words and on the slider. */
  mark() {
    const entry = this.entries.all[this.at]
    if (!entry) return
    const position = this.position()
    this.range.value = String(position)
    const words = `Entry ${seq(entry.offset)} of ${seq(this.entries.all.at(-1).offset)}`
    setText(this.where, `${words} · ${clockMs(entry.time)}`)
    this.range.setAttribute('aria-valuetext', `${words}, ${entry.kind} ${cut(detail(entry), 80)}`)
    this.rows.go(position)
    this.score.go(position)
  }

  /** Agents that work and say nothing: what they hear from their model. */
  hear(state) {
    const silent = running(state).filter(turn => !turn.spoke)
    this.heard.replaceChildren(...silent.map(turn => {
      const heard = turn.call?.heard ?? ''
      const tail = heard.length > HEARD_CHARS ? `…${heard.slice(-HEARD_CHARS)}` : heard
      const what = turn.call ? (heard ? 'hears, and says nothing' : `waits for ${turn.call.target ?? 'an answer'}`) : 'works'
      return el(`li.item.thought.${voiceClass(state, turn.agent)}`, {},
        el('div.who', {}, el('bdi.name', {}, turn.agent), el('span.standing', {}, what)), el('div.text', { dir: 'auto' }, tail))
    }))
  }

  /** A document as it stood: in its entry, or, if it is long, by its digest. */
  async document(slot) {
    if (!slot.content) return ''
    if (slot.content.text !== undefined) return slot.content.text
    const where = path('sessions', this.session.id, 'values', slot.content.digest)
    return who.textByKey(where)
  }

  toggle() {
    if (this.timer) return this.pause()
    if (this.at === this.visible.at(-1)) this.step(-Infinity)
    setText(this.playButton, 'Pause')
    this.tick()
  }

  pause() {
    clearTimeout(this.timer)
    this.timer = 0
    setText(this.playButton, 'Play')
  }

  /** As it happened, so many times as fast. What came together comes together. */
  tick() {
    let position = this.position()
    if (position >= this.visible.length - 1) return this.pause()
    const time = at => Date.parse(this.entries.all[this.visible[at]].time)
    const began = time(position)
    let wait = 0
    do {
      position += 1
      wait = Math.min(SILENCE_MS, (time(position) - began) / Number(this.speed.value))
    } while (wait < 16 && position < this.visible.length - 1)
    this.timer = setTimeout(() => {
      this.go(this.visible[position])
      this.tick()
    }, Math.max(16, wait))
  }
}

const SEEN = new Set(['session-opened', 'session-forked', 'session-changed', 'recounted', 'message-received', 'spoke', 'tools-called', 'asked', 'answered', 'slot-committed',
  'interrupt-requested', 'turn-ended', 'halted', 'agent-suspended', 'agent-resumed'])
