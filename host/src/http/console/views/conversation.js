// The conversation: people's words, each agent's voice, and what happened in between. Shows a state of the fold; live, and as
// it stood at an entry. Elements are kept by item, so that words which come are appended and nothing else moves.

import { bdi, button, el, setText, show } from '../dom.js'
import { question } from './question.js'
import { voice, words } from '../fold.js'
import { agentOf, clock, detail, moment } from '../words.js'

/** Longer messages of people are folded until somebody wants them whole. */
const FOLDED_CHARS = 1500
const VOICES = 8

export const voiceClass = (state, name) => `voice-${voice(state, name) % VOICES}`

export class Conversation {
  constructor({ own = () => null, answer = null, lost = () => {} } = {}) {
    this.own = own
    /** Answers a question; none where the past is shown. */
    this.answer = answer
    /** Where the keyboard goes on when what it was on goes away. */
    this.lost = lost
    this.list = el('ol.items')
    this.nodes = new Map()
    /** Items that somebody wanted whole. */
    this.whole = new Set()
  }

  /** Show a state. With `touched`, only what changed; else all of it, from the item `first`. */
  render(state, { touched = null, first = 0 } = {}) {
    const items = first ? state.items.slice(first) : state.items
    if (!touched) {
      const keys = new Set(items.map(item => item.key))
      for (const [key, view] of this.nodes) {
        if (keys.has(key)) continue
        view.node.remove()
        this.nodes.delete(key)
      }
    }
    let last = null
    const todo = touched && this.nodes.size ? items.slice(firstTouched(items, touched, this.nodes)) : items
    if (todo.length < items.length) last = this.nodes.get(items[items.length - todo.length - 1].key)?.node
    for (const item of todo) {
      let view = this.nodes.get(item.key)
      if (!view) {
        view = VIEWS[item.type](this, item, state)
        this.nodes.set(item.key, view)
      }
      if (!touched || touched.has(item.key) || !view.isShown) view.update(item, state)
      view.isShown = true
      const place = last ? last.nextSibling : this.list.firstChild
      if (place !== view.node) this.list.insertBefore(view.node, place)
      last = view.node
    }
  }

  clear() {
    this.nodes.clear()
    this.list.textContent = ''
  }
}

function firstTouched(items, touched, nodes) {
  const at = items.findIndex(item => touched.has(item.key) || !nodes.has(item.key))
  return at < 0 ? items.length : at
}

const VIEWS = { message, sent, reply, note, question: (owner, item, state) => question(owner, item, { kind: voiceClass(state, item.agent), when: when(item), text: text(owner, item) }) }

const when = item => el('time', { datetime: item.time, title: moment(item.time) }, clock(item.time))

/** Text of somebody. Long ones are folded; the text itself is always all there. */
function text(owner, item) {
  const node = el(item.isText ? 'div.text' : 'div.text.json', { dir: 'auto' })
  setText(node, item.text)
  const isLong = item.text.length > FOLDED_CHARS || item.text.split('\n', 31).length > 30
  if (!isLong) return [node]
  const toggle = button('', () => {
    if (!owner.whole.delete(item.key)) owner.whole.add(item.key)
    draw()
  }, { class: 'quiet' })
  const draw = () => {
    const isWhole = owner.whole.has(item.key)
    node.classList.toggle('folded', !isWhole)
    toggle.setAttribute('aria-expanded', String(isWhole))
    toggle.textContent = isWhole ? 'Show less' : `Show all ${item.text.length.toLocaleString()} characters`
  }
  draw()
  return [node, toggle]
}

const FATES = {
  waiting: 'waiting', left: 'left in the mailbox', aside: 'set aside', taken: '', consumed: '',
}

function fateOf(item) {
  const words = FATES[item.fate] ?? ''
  return item.reason ? `${words}: ${item.reason}` : words
}

function message(owner, item) {
  const own = item.author === owner.own()
  const fate = el('span.fate')
  const node = el(own ? 'li.item.message.own' : 'li.item.message', { 'data-key': item.key },
    el('div.who', {}, bdi(item.author, { class: 'name' }), own ? el('span.hint', {}, 'you') : null, when(item), fate),
    ...text(owner, item))
  return { node, update: item => setText(fate, fateOf(item)) }
}

function sent(owner, item, state) {
  const fate = el('span.fate')
  const node = el(`li.item.sent.${voiceClass(state, item.from)}`, { 'data-key': item.key },
    el('div.who', {}, bdi(item.from, { class: 'name' }), el('span.hint', {}, 'to'), bdi(item.to, { class: 'name' }), when(item), fate),
    ...text(owner, item))
  return { node, update: item => setText(fate, fateOf(item)) }
}

const ENDS = { interrupted: 'interrupted', cancelled: 'cancelled', failed: 'failed' }

function reply(owner, item, state) {
  const parts = el('div.parts')
  const end = el('p.end', { hidden: true })
  const standing = el('span.standing')
  const place = Math.min(voice(state, item.agent), 2)
  const node = el(`li.item.reply.${voiceClass(state, item.agent)}.place-${place}`, { 'data-key': item.key, 'data-turn': item.turn },
    el('div.who', {}, el('span.initial', { 'aria-hidden': 'true' }, item.agent[0]), bdi(item.agent, { class: 'name' }), when(item), standing),
    parts, end)
  const shown = []
  const update = (item, state) => {
    // Stepping back takes parts away, and may turn frames into words again.
    while (shown.length > item.parts.length) shown.pop().remove()
    item.parts.forEach((part, at) => {
      const kind = `${part.isFrame} ${part.speaker} ${part.index}`
      if (shown[at]?.dataset.kind !== kind) {
        const made = partNode(part, state, kind)
        if (shown[at]) shown[at].replaceWith(made)
        else parts.append(made)
        shown[at] = made
      }
      setText(shown[at].querySelector('.text'), part.text)
    })
    const isOpen = item.end === null
    node.classList.toggle('open', isOpen)
    setText(standing, isOpen ? (item.by ? 'stopping' : 'speaking') : '')
    const marks = ENDS[item.end]
    show(end, Boolean(marks))
    if (!marks) return
    const by = item.end === 'interrupted' && item.by ? ` by ${item.by}` : ''
    setText(end, `${marks}${by}${item.error ? `: ${item.error.message}` : ''}`)
    end.className = `end ${item.end}`
  }
  return { node, update }
}

/** A stretch of words of one speaker. Frames are in the text and out of sight: the label says what they say. */
function partNode(part, state, kind) {
  if (part.isFrame) return el('div.frame', { hidden: true, 'data-kind': kind }, el('span.text'))
  if (part.speaker === null) return el('div.part', { 'data-kind': kind }, el('div.text', { dir: 'auto' }))
  return el(`div.part.speaker.${voiceClass(state, part.speaker)}`, { 'data-kind': kind },
    el('div.who', {}, el('span.initial', { 'aria-hidden': 'true' }, [...part.speaker][0] ?? '?'), bdi(part.speaker, { class: 'name' })),
    el('div.text', { dir: 'auto' }))
}

const BAD = new Set(['agent-suspended', 'message-set-aside'])
const NAMED = new Set(['slot-committed', 'retried', 'turn-ended', 'agent-suspended', 'agent-resumed', 'halted'])

function note(owner, item, state) {
  const { event } = item
  const agent = NAMED.has(event.kind) ? agentOf(event) ?? event.by?.author : null
  const isBad = BAD.has(event.kind) || event.outcome === 'failed' || event.halt?.kind === 'participant_error'
  const kinds = `${isBad ? '.bad' : ''}${agent && state.voices.has(agent) ? `.${voiceClass(state, agent)}` : ''}`
  const node = el(`li.item.note${kinds}`, { 'data-key': item.key },
    el('p', {}, agent ? bdi(agent, { class: 'name' }) : null, agent ? ' ' : null, bdi(detail(event)), ' ', when(item)))
  return { node, update() {} }
}

/** What a screen reader is told of events, once they are whole: utterances and not words. */
export function utterances(state, events, own) {
  const told = []
  for (const event of events) {
    if (event.kind === 'message-received' && event.author !== own) told.push(`${event.author}: ${event.body}`)
    if (event.kind === 'turn-ended') {
      const item = state.replies.get(event.turn)
      const end = ENDS[event.outcome] ? ` — ${ENDS[event.outcome]}` : ''
      if (item) told.push(`${event.agent}: ${words(item)}${end}`)
      else if (end) told.push(`${event.agent} ${detail(event)}`)
    }
    if (event.kind === 'asked') told.push(`${event.agent} ${detail(event)}`)
    if (event.kind === 'answered' && event.by !== own) told.push(detail(event))
    if (event.kind === 'slot-committed' || event.kind === 'agent-suspended' || event.kind === 'halted') {
      told.push(`${agentOf(event) ?? ''} ${detail(event)}`)
    }
  }
  return told
}
