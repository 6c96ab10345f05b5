// Elements made of text. Text is only ever set as text, whoever wrote it: there is no other way in here.

/** An element: `el('p.note', {hidden: true, on: {click}}, 'text', child)`. */
export function el(what, about = {}, ...children) {
  const [tag, ...classes] = what.split('.')
  const node = document.createElement(tag)
  if (classes.length) node.className = classes.join(' ')
  for (const [name, value] of Object.entries(about)) {
    if (name === 'on') {
      for (const [event, heard] of Object.entries(value)) node.addEventListener(event, heard)
    } else if (typeof value === 'boolean' && !name.startsWith('aria-')) {
      node.toggleAttribute(name, value)
    } else if (value !== null && value !== undefined) {
      node.setAttribute(name, String(value))
    }
  }
  node.append(...children.filter(child => child !== null && child !== undefined))
  return node
}

/** Set text only where it changed, and only append where it grew: selections and readers stay where they are. */
export function setText(node, text) {
  const old = node.firstChild
  if (old instanceof Text && node.childNodes.length === 1) {
    if (old.data === text) return
    if (old.data && text.startsWith(old.data)) return void old.appendData(text.slice(old.data.length))
  }
  node.textContent = text
}

export function show(node, isShown) {
  node.hidden = !isShown
}

/** A name or text of unknown direction, which cannot turn what stands around it. */
export function bdi(text, about) {
  return el('bdi', about, text)
}

let alarm = 0

/** Tell a screen reader at once. */
export function alert(text) {
  const region = document.getElementById('alarm')
  region.textContent = text
  clearTimeout(alarm)
  alarm = setTimeout(() => { region.textContent = '' }, 8000)
}

/** Tell a screen reader when it has said what it says. Only the newest few are kept. */
export function announce(text) {
  const region = document.getElementById('said')
  region.append(el('p', {}, text.length > 600 ? `${text.slice(0, 600)}…` : text))
  while (region.childNodes.length > 5) region.firstChild.remove()
}

export function field(label, input, hint) {
  const id = `f${++fields}`
  input.id = id
  const parts = [el('label', { for: id }, label), input]
  if (hint) {
    input.setAttribute('aria-describedby', `${id}-hint`)
    parts.push(el('p.hint', { id: `${id}-hint` }, hint))
  }
  return el('div.field', {}, ...parts)
}
let fields = 0

export function button(label, heard, about = {}) {
  const kind = about.class ? `button.${about.class}` : 'button'
  const { class: _, ...rest } = about
  return el(kind, { type: 'button', ...rest, on: { click: heard } }, label)
}
