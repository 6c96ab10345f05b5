// What events and entries say, in a line. Plain text, for rows and notes.

export const clock = time => new Date(time).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' })

/** To the millisecond, as the journal has it. */
export function clockMs(time) {
  const at = new Date(time)
  const two = number => String(number).padStart(2, '0')
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, '0')}`
}

export const moment = time => new Date(time).toLocaleString([], { dateStyle: 'medium', timeStyle: 'medium' })

export function size(bytes) {
  if (bytes === null || bytes === undefined) return '–'
  if (bytes < 1024) return `${bytes} B`
  if (bytes < 1024 * 1024) return `${(bytes / 1024).toFixed(bytes < 10240 ? 1 : 0)} KiB`
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`
}

export const cut = (text, max = 160) => {
  const line = text.slice(0, max * 2).replace(/\s+/g, ' ')
  return line.length > max || text.length > max * 2 ? `${line.slice(0, max)}…` : line
}

export const list = names => (names.length < 2 ? names.join('') : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`)

const body = event => (typeof event.body === 'string' ? event.body : JSON.stringify(event.body))

export const writer = by => by?.agent ?? by?.author ?? 'somebody'

/** Which agent an entry is of; turns are named by their agent at the end. */
export function agentOf(event) {
  if (event.agent) return event.agent
  if (event.from) return event.from
  if (event.by?.agent) return event.by.agent
  if (event.turn) return event.turn.split('.').at(-1)
  return null
}

const because = cause => (cause === 'messages' ? null : cause === 'wake' ? 'it wanted to wake' : `slot ${cause.slot} was written`)

const HALTS = {
  max_turns: halt => `all ${halt.turns} turns are made`,
  max_credits: () => 'it has cost what it may',
  predicate: halt => halt.reason || 'what ends it was said',
  participant_error: halt => `${halt.participant} could not go on: ${halt.message}`,
  abort: () => 'somebody ended it',
}

const OUTCOMES = { completed: 'is done', interrupted: 'was interrupted', cancelled: 'was cancelled', failed: 'failed' }

/** A note in a conversation, and a row of the journal. The agent's name stands beside it there. */
export const detail = event => (DETAILS[event.kind] ?? (() => ''))(event)

const DETAILS = {
  'session-opened': event => `opened with ${list(event.agents)}; messages go to ${event.entry}`,
  'recounted': event => `${writer(event.by)} said before: ${cut(event.text)}`,
  'tools-called': event => `asks its caller to call ${list(event.calls.map(call => call.name))}`,
  'asked': event => `asks: ${cut(event.text)}${event.choices?.length ? ` (${list(event.choices)})` : ''}`,
  'answered': event => (event.result === 'expired' ? 'got no answer in time' : `${event.by} answered ${agentOf(event)}: ${cut(event.text)}${event.note ? ` (${cut(event.note)})` : ''}`),
  'session-forked': event => `forked from ${event.from} after entry ${event.at}`,
  'session-changed': event => ({
    'agent-added': `${event.agent} takes part`, 'agent-removed': `${event.agent} left`,
    expired: 'the session expired', deleted: 'the session was deleted',
  }[event.change] ?? event.change),
  'message-received': event => `${event.author} to ${event.to}: ${cut(body(event))}`,
  'message-sent': event => `to ${event.to}: ${cut(body(event))}`,
  'turn-started': event => {
    const causes = event.causes.map(because).filter(Boolean)
    if (event.inputs.length) causes.unshift(event.inputs.length === 1 ? 'a message' : `${event.inputs.length} messages`)
    return `begins: ${causes.join(', ')}${event.attempt > 1 ? `; attempt ${event.attempt}` : ''}`
  },
  'spoke': event => `${event.speaker ? `${event.speaker}: ` : ''}${cut(event.text)}`,
  'speaker-started': event => `${event.speaker} has the word`,
  'speaker-ended': event => `${event.speaker} is done`,
  'halted': event => `the conversation is over: ${(HALTS[event.halt.kind] ?? (() => event.halt.kind))(event.halt)}`,
  'slot-committed': event => `wrote slot ${event.slot}, version ${event.version}, ${size(event.bytes)}`,
  'slot-locked': event => `locks slot ${event.slot}`,
  'slot-released': event => `lets go of slot ${event.slot}`,
  'interrupt-requested': event => `${event.by ?? 'somebody'} interrupts ${event.agent}`,
  'turn-ended': event => `${OUTCOMES[event.outcome] ?? event.outcome}${event.error ? `: ${event.error.message}` : ''}`,
  'message-set-aside': event => `a message was set aside: ${event.reason}`,
  'retried': event => {
    const why = event.detail ? `${event.reason}, ${event.detail}` : event.reason
    if (event.reason === 'answered') return 'goes on with the answer'
    if (event.n === undefined) return event.reason === 'host-lost' ? 'goes on after the server was lost' : `is tried again: ${why}`
    return `asks once more, attempt ${event.attempt}: ${why}`
  },
  'agent-suspended': event => (event.until_ready ? `waits: ${event.reason}` : `is suspended: ${event.reason}`),
  'agent-resumed': event => (event.by ? `was resumed by ${event.by}` : 'goes on'),
  'called': event => `calls ${event.target ? `model ${event.target}` : event.call}`,
  'agent-called': event => `calls agent ${event.agent}`,
  'streamed': event => `hears ${cut((event.pieces ?? []).map(piece => piece.text ?? '').join(''))}`,
  'returned': event => `has its answer: ${event.error ?? event.result}${event.attempts > 1 ? ` after ${event.attempts} attempts` : ''}`,
  'observed': event => `looks: ${String(event.call ?? '').replaceAll('-', ' ')}${event.slot ? ` ${event.slot}` : ''}`,
}
