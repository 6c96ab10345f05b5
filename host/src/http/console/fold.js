// From events to what is seen. Pure: no clock, no network, no page. The same events give the same state, so a reload, a second
// tab and a step back in the journal show what was shown; entries of the journal are folded by the same code, and say more.

/** A state before its first event, or before the first event of a window: then with the session as it stands now. */
export function start(session = null) {
  const state = {
    offset: null, time: null, entry: null,
    /** name → {agent, turn, suspended, present} */
    agents: new Map(),
    /** turn → what is known of it */
    turns: new Map(),
    /** What is shown, in order. */
    items: [],
    messages: new Map(),
    replies: new Map(),
    /** number → the item of what an agent asks */
    questions: new Map(),
    /** name → {slot, version, by, bytes, time, lockedBy, content} */
    slots: new Map(),
    /** Who has a voice of their own, in order of appearance. */
    voices: new Map(),
    /** Keys of items that changed since somebody last looked. */
    touched: new Set(),
    ended: null,
  }
  if (!session) return state
  state.entry = session.entry
  for (const { agent, turn, suspended } of session.agents) {
    const one = takePart(state, agent)
    one.suspended = suspended
    // It began before the window. Events of the window that end it or begin others come later, and are right.
    if (turn) open(state, { turn, agent, time: null, attempt: 1, causes: [], inputs: [] })
  }
  // Asked before the window, and still open.
  for (const question of session.questions ?? []) ask(state, { ...question, offset: after(question.question), time: question.asked_at })
  return state
}

/** Fold one event, or entry, in. Answers the state, changed. */
export function next(state, event) {
  state.offset = event.offset
  state.time = event.time
  HEARD[event.kind]?.(state, event)
  return state
}

export const fold = (events, session = null) => events.reduce(next, start(session))

/** A number for each voice, from 0: agents, and the speakers of conversations. */
export const voice = (state, name) => state.voices.get(name) ?? 0

/** Turns that run. */
export const running = state => [...state.turns.values()].filter(turn => !turn.outcome)

/** All words of a reply, frames of conversations included: what the transcript has. */
export const words = item => item.parts.map(part => part.text).join('')

const HEARD = {
  'session-opened'(state, event) {
    state.entry = event.entry
    for (const agent of event.agents) takePart(state, agent)
    note(state, event)
  },

  // What was said before the session began.
  'recounted'(state, event) {
    const key = `b ${event.offset}`
    if (event.by.agent) {
      const parts = [{ speaker: null, index: undefined, text: event.text, isFrame: false }]
      push(state, key, event, { type: 'reply', turn: null, agent: event.by.agent, parts, end: 'completed', error: null, by: null })
    } else {
      const said = { type: 'message', author: event.by.author, message: null, to: null, text: event.text, isText: true }
      push(state, key, event, { ...said, fate: 'consumed', reason: null })
    }
  },

  'tools-called': note,

  'asked': ask,

  'answered'(state, event) {
    const turn = state.turns.get(event.turn)
    if (turn?.question === event.question) turn.question = null
    const item = state.questions.get(event.question)
    if (!item) return note(state, event)
    const { result, text, by, note: beside } = event
    Object.assign(item, { isOpen: false, answer: { result, text: text ?? null, by: by ?? null, note: beside ?? null, time: event.time } })
    touch(state, item)
  },

  'session-forked': note,

  'session-changed'(state, event) {
    if (event.change === 'agent-added') takePart(state, event.agent).present = true
    if (event.change === 'agent-removed') takePart(state, event.agent).present = false
    if (event.change === 'expired' || event.change === 'deleted') state.ended = event.change
    note(state, event)
  },

  'message-received'(state, event) {
    message(state, event, { type: 'message', author: event.author })
  },

  'message-sent'(state, event) {
    message(state, event, { type: 'sent', from: event.from, turn: event.turn })
  },

  'turn-started'(state, event) {
    open(state, event)
    for (const id of event.inputs) fate(state, id, 'taken')
  },

  'spoke'(state, event) {
    const turn = state.turns.get(event.turn) ??
      open(state, { ...event, attempt: 1, causes: [], inputs: [], time: null })
    let item = state.replies.get(event.turn)
    if (!item) {
      // Words whose first ones are before the window stand there, and not here.
      if (event.at > 0) return
      item = { type: 'reply', turn: event.turn, agent: event.agent, parts: [], end: null, error: null, by: turn.by }
      state.replies.set(event.turn, item)
      push(state, `r ${event.turn}`, event, item)
    }
    turn.spoke = true
    touch(state, item)
    if (event.speaker !== undefined && !turn.speaks) {
      turn.speaks = true
      for (const part of item.parts) part.isFrame = true
    }
    const speaker = event.speaker ?? null
    if (speaker !== null) addVoice(state, speaker)
    const isFrame = speaker === null && turn.speaks
    const last = item.parts.at(-1)
    const goesOn = last && last.speaker === speaker && last.index === event.index && last.isFrame === isFrame
    if (goesOn) last.text += event.text
    else item.parts.push({ speaker, index: event.index, text: event.text, isFrame })
  },

  'speaker-started'(state, event) {
    const turn = state.turns.get(event.turn)
    addVoice(state, event.speaker)
    if (!turn) return
    turn.speaks = true
    turn.speaker = event.speaker
  },

  'speaker-ended'(state, event) {
    const turn = state.turns.get(event.turn)
    if (turn) turn.speaker = null
  },

  'halted': note,

  'slot-committed'(state, event) {
    const slot = slotOf(state, event.slot)
    Object.assign(slot, { version: event.version, by: event.by, bytes: event.bytes, time: event.time })
    slot.content = event.private?.content ?? null
    slot.lockedBy = null
    note(state, event)
  },

  'slot-locked'(state, event) {
    slotOf(state, event.slot).lockedBy = event.turn
  },

  'slot-released'(state, event) {
    slotOf(state, event.slot).lockedBy = null
  },

  'interrupt-requested'(state, event) {
    const turn = state.turns.get(event.turn)
    if (turn) turn.by = event.by
    const item = state.replies.get(event.turn)
    if (item) {
      item.by = event.by
      touch(state, item)
    } else {
      note(state, event)
    }
  },

  'turn-ended'(state, event) {
    const turn = state.turns.get(event.turn)
    if (turn) Object.assign(turn, { outcome: event.outcome, ended: event.time, usage: event.usage, call: null, speaker: null, question: null })
    for (const item of state.questions.values()) {
      if (item.turn !== event.turn || !item.isOpen) continue
      item.isOpen = false
      touch(state, item)
    }
    const agent = state.agents.get(event.agent)
    if (agent?.turn === event.turn) agent.turn = null
    for (const slot of state.slots.values()) if (slot.lockedBy === event.turn) slot.lockedBy = null
    for (const input of event.inputs) fate(state, input.message, input.fate)
    const item = state.replies.get(event.turn)
    if (item) {
      item.end = event.outcome
      item.error = event.error ?? null
      touch(state, item)
    } else if (event.outcome !== 'completed') {
      note(state, event)
    }
  },

  'message-set-aside'(state, event) {
    fate(state, event.message, 'aside', event.reason)
  },

  'retried'(state, event) {
    const turn = state.turns.get(event.turn)
    if (turn && event.n === undefined) turn.attempt = event.attempt
    // The answer says it.
    if (event.reason !== 'answered') note(state, { ...event, agent: turn?.agent })
  },

  'agent-suspended'(state, event) {
    takePart(state, event.agent).suspended = { reason: event.reason, since: event.time, until_ready: event.until_ready === true }
    note(state, event)
  },

  'agent-resumed'(state, event) {
    takePart(state, event.agent).suspended = null
    note(state, event)
  },

  // The journal alone: what an agent hears from a model before anybody is told.
  'called'(state, event) {
    const turn = state.turns.get(event.turn)
    if (turn) turn.call = { n: event.n, call: event.call, target: event.target ?? null, heard: '' }
  },

  'agent-called'(state, event) {
    const turn = state.turns.get(event.turn)
    if (turn) turn.call = { n: event.n, call: 'agent', target: event.agent, heard: '' }
  },

  'streamed'(state, event) {
    const call = state.turns.get(event.turn)?.call
    if (call) for (const piece of event.pieces ?? []) call.heard += piece.text ?? ''
  },

  'returned'(state, event) {
    const turn = state.turns.get(event.turn)
    if (turn?.call?.n === event.n) turn.call = null
  },
}

function takePart(state, agent) {
  let one = state.agents.get(agent)
  if (!one) {
    one = { agent, turn: null, suspended: null, present: true }
    state.agents.set(agent, one)
    addVoice(state, agent)
  }
  return one
}

function addVoice(state, name) {
  if (!state.voices.has(name)) state.voices.set(name, state.voices.size)
}

function open(state, event) {
  const turn = {
    turn: event.turn, run: event.run ?? null, agent: event.agent, started: event.time, attempt: event.attempt,
    causes: event.causes, inputs: event.inputs, spoke: false, speaks: false, speaker: null, call: null, by: null, question: null,
    outcome: null, ended: null,
  }
  state.turns.set(event.turn, turn)
  takePart(state, event.agent).turn = event.turn
  return turn
}

function push(state, key, event, item) {
  Object.assign(item, { key, offset: event.offset, time: event.time })
  state.items.push(item)
  touch(state, item)
}

function touch(state, item) {
  state.touched.add(item.key)
}

function note(state, event) {
  const { private: _, ...what } = event
  push(state, `n ${event.offset}`, event, { type: 'note', event: what })
}

/** What an agent asks people: open until it is answered, or its turn is over. */
function ask(state, event) {
  const turn = state.turns.get(event.turn)
  if (turn) Object.assign(turn, { question: event.question, call: null })
  if (state.questions.has(event.question)) return
  const { question, agent, text, choices = [] } = event
  const item = { type: 'question', question, agent, turn: event.turn, text, isText: true, choices, isOpen: true, answer: null }
  state.questions.set(question, item)
  push(state, `q ${question}`, event, item)
}

function message(state, event, item) {
  const isText = typeof event.body === 'string'
  Object.assign(item, {
    message: event.message, to: event.to, text: isText ? event.body : JSON.stringify(event.body), isText,
    fate: 'waiting', reason: null,
  })
  state.messages.set(event.message, item)
  push(state, `m ${event.message}`, event, item)
}

function fate(state, id, fate, reason = null) {
  const item = state.messages.get(id)
  if (!item) return
  item.fate = fate === 'returned' ? 'waiting' : fate
  item.reason = reason
  touch(state, item)
}

function slotOf(state, name) {
  let slot = state.slots.get(name)
  if (!slot) {
    slot = { slot: name, version: null, by: null, bytes: null, time: null, lockedBy: null, content: null }
    state.slots.set(name, slot)
  }
  return slot
}

/** The offset of the place just before an entry: reading from there begins with it. */
export function before(offset) {
  const at = seq(offset)
  return at <= 1 ? '-1' : after(at - 1)
}

export const seq = offset => Number(offset.split('_')[0])

/** The offset after an entry. */
export const after = seq => `${String(seq).padStart(16, '0')}_${'0'.repeat(16)}`
