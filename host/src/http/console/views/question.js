// What an agent asks people: its words, and buttons or a line to answer with, until it is answered or its turn is over.

import { say } from '../api.js'
import { alert, bdi, button, el, setText, show } from '../dom.js'

export function question(owner, item, { kind, when, text }) {
  const standing = el('span.standing')
  const trouble = el('p.end.failed', { hidden: true })
  const said = el('p.answer', { hidden: true })
  const field = owner.answer ? controls(item, send) : past(item)
  const node = el(`li.item.question.${kind}`, { 'data-key': item.key, 'data-question': item.question },
    el('div.who', {}, bdi(item.agent, { class: 'name' }), el('span.hint', {}, 'asks'), when, standing),
    ...text, field, trouble, said)
  /** One key for each answer, so that trying again is the same one. */
  const keys = new Map()
  let isSending = false
  /** The keyboard was here when the answer went: what is disabled cannot hold it. */
  let wasHere = false

  async function send(answer) {
    if (isSending || !item.isOpen) return
    isSending = true
    wasHere = field.contains(document.activeElement)
    draw()
    const what = JSON.stringify(answer)
    if (!keys.has(what)) keys.set(what, fresh())
    try {
      await owner.answer(item.question, answer, keys.get(what))
      setText(trouble, '')
    } catch (error) {
      isSending = false
      setText(trouble, say(error))
      alert(say(error))
    }
    draw()
    if (!isSending && wasHere) field.querySelector('input, button')?.focus()
  }

  function draw() {
    for (const one of field.querySelectorAll('button, input')) one.disabled = isSending
    setText(standing, item.isOpen ? (isSending ? 'sending' : 'waiting for an answer') : item.answer ? '' : 'not open any more')
    show(trouble, Boolean(trouble.textContent) && item.isOpen)
  }

  function update() {
    const isHere = field.contains(document.activeElement) || (wasHere && document.activeElement === document.body)
    show(field, item.isOpen || !owner.answer)
    show(said, Boolean(item.answer))
    if (item.answer) said.replaceChildren(...answered(item.answer))
    node.classList.toggle('open', item.isOpen)
    if (!item.isOpen && isHere && owner.answer) {
      wasHere = false
      owner.lost()
    }
    draw()
  }
  return { node, update: fresh => { item = fresh; update() } }
}

const fresh = () => [...crypto.getRandomValues(new Uint8Array(16))].map(byte => byte.toString(16).padStart(2, '0')).join('')

/** A group with a name, so that whoever hears the page knows what the buttons are for. */
function controls(item, send) {
  const about = { role: 'group', 'aria-label': `Answer to ${item.agent}: ${item.text}` }
  if (item.choices.length) {
    return el('div.row.answers', about, ...item.choices.map(choice => button(choice, () => send({ choice }))))
  }
  const input = el('input', { type: 'text', 'aria-label': `Answer to ${item.agent}`, placeholder: 'Your answer', maxlength: 1_000_000 })
  const submit = event => {
    event.preventDefault()
    if (input.value.trim()) send({ text: input.value })
  }
  return el('form.row.answers', { ...about, on: { submit } }, input, el('button', { type: 'submit' }, 'Answer'))
}

/** The choices there were. */
function past(item) {
  return el('p.hint', {}, item.choices.length ? bdi(item.choices.join(' · ')) : null)
}

function answered({ result, text, by, note }) {
  if (result === 'expired') return [el('span.hint', {}, 'Nobody answered in time.')]
  return [bdi(by, { class: 'name' }), ' answered: ', bdi(text), ...(note ? [el('span.hint', {}, ' — ', bdi(note))] : [])]
}
